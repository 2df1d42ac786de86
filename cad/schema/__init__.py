"""All sections of settings together: the config of a cell and that of an experiment."""

from __future__ import annotations

from cad.schema.cell import Config, EnvOnly
from cad.schema.experiment import Arm, EqualState, ExperimentConfig, Prune, ReportConfig
from cad.schema.files import holds_experiment, load_cell
from cad.schema.stored import stored_config

__all__ = [
    "Arm",
    "Config",
    "EnvOnly",
    "EqualState",
    "ExperimentConfig",
    "Prune",
    "ReportConfig",
    "holds_experiment",
    "load_cell",
    "stored_config",
]
