"""PAST: one representation of a single cell from its H&E image and its transcriptome."""
