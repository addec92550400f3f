"""The verbs of the `past` command, one module each."""
