"""Everything that predicts a risk, from clinical columns, genes or slides."""
