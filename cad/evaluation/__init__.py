"""In-context roll-outs in tasks that the model never saw, and their results on disk."""
