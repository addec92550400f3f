"""How well a risk orders survival, and how sure that is."""
