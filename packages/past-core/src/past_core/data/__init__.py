"""Region supply, batches and the pretraining DataModule."""
