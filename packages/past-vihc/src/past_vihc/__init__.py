"""Virtual immunohistochemistry from H&E, with an H-score."""
