"""What a training costs, before it is started: FLOP, memory, days."""
