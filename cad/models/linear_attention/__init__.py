"""Linear attention with a gated delta rule: an associative memory of constant size."""
