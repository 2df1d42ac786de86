"""AD: a causal transformer over the last steps."""
