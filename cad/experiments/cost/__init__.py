"""Estimate what stages will take, from finished stages or from a short calibration."""
