"""Tasks: families behind one protocol, a batched core, Gymnasium and stable-baselines3 environments, splits.

Importing :mod:`cad.envs.gymnasium_env` registers the environments with Gymnasium.
"""
