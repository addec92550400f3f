"""Pictures: maps of genes, r by gene, clusters. Drawn without a display."""
