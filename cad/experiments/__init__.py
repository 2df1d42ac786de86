"""Experiments, by what the code does: ``plan``, ``reporting``, ``run``, then ``cost`` and ``analysis``.

A folder imports only from those before it; ``plan`` imports no torch.
"""
