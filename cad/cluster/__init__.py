"""Experiments on a Slurm cluster: profile, job arrays, job script, status, log files.

Stages, their directories and the code that runs them come from :mod:`cad.experiments`.
"""
