"""Pictures of survival: curves, bars, differences, tables. Drawn without a display."""
