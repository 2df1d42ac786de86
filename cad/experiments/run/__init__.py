"""Run stages: the work of each, and the processes of this machine that do it."""
