"""Open any slide, read any region."""
