"""LightningModules of survival, one for each network, and what trains and exports them."""
