"""Experiments: grid to cells to stages, run directories, the local runner."""
