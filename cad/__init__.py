"""cad: compressed algorithm distillation as a batch workflow."""

__version__ = "0.1.0"
