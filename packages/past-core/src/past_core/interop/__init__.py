"""Slide stores for other programs: QuPath's GeoJSON, Xenium Explorer's CSV files."""
