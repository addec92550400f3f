"""The linear probe: its file, and its training by gradient."""
