"""What several kinds of models are built of."""
