"""Probes: what can be read out of the latents of stored evaluations."""
