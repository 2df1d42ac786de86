"""CompressedAD: AD after recursively compressed context."""
