"""Sufficient statistics of a slide's embeddings and expression, and the closed-form probe made from them."""
