"""From bundles and tables with their H&E to slide stores."""
