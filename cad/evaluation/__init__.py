"""In-context roll-outs in tasks that the model never saw, their results on disk, and probes of them."""
