"""Training: the objective, its noise, the optimiser and the loop."""
