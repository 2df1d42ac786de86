"""Learning histories: collecting them, their file, its audit, their plot, and the training sampler."""
