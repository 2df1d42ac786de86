"""What recurrent kinds share: all but the layer that mixes steps, and the cost of that layer."""
