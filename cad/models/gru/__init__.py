"""GRU: a recurrent net over the whole history."""
