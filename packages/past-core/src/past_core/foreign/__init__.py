"""Files from elsewhere, read as data: nothing in them is executed, and what they claim is checked first."""
