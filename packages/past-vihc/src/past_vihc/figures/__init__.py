"""Pictures of virtual staining."""
