"""How two scores of the same cases agree."""
