"""What an experiment consists of: cells, their stages, and each stage's directory.  Nothing here runs."""
