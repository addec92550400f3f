"""Registers an H&E to its Xenium morphology from keypoints: fits, outliers, local correction, report."""
