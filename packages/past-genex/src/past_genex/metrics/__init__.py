"""How well expression is predicted, streaming and mergeable, and whether two systems differ."""
