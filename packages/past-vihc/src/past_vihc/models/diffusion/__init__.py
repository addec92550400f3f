"""The diffusion baseline: network, schedule and sampling."""
