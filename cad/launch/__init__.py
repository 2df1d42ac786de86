"""Experiments on a Slurm cluster: profile, job arrays, job script, state, log files.

The stages, their directories and the code that runs them are those of :mod:`cad.experiments`.
"""
