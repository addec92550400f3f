"""Generators and what trains them; torch only."""
