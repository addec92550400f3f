"""Predicted expression of a slide's cells, with what is known about its trust."""
