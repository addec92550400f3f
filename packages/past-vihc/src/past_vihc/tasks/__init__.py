"""LightningModules, one for each system."""
