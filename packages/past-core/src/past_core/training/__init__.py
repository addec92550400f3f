"""Parts of a training: optimiser, execution, resuming, whole checkpoints, held-out figures, the command."""
