"""Single-cell gene expression from H&E with PAST embeddings."""
