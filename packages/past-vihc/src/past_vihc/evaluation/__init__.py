"""How virtual and real stains are compared."""
