"""Everything that predicts expression under the same splits and the same evaluator."""
