"""Packed training: models of one shape train together in one process, forward and backward as one."""
