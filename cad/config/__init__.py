"""Typed, frozen settings: what they are (:mod:`.schema`) and how they are read and shown.

``load`` and ``show`` are the functions; the modules of these names are reached by ``from`` imports.
"""

from __future__ import annotations

from cad.config.keys import KeyRow, describe, json_schema
from cad.config.load import Loaded, apply_overrides, flatten, from_mapping, load
from cad.config.schema import (
    Arm,
    Config,
    EnvConfig,
    EvaluationConfig,
    ExperimentConfig,
    LoopConfig,
    ModelConfig,
    PretrainConfig,
    ReportConfig,
    SourceConfig,
    TrainConfig,
)
from cad.config.show import show

__all__ = [
    "Arm",
    "Config",
    "EnvConfig",
    "EvaluationConfig",
    "ExperimentConfig",
    "KeyRow",
    "Loaded",
    "LoopConfig",
    "ModelConfig",
    "PretrainConfig",
    "ReportConfig",
    "SourceConfig",
    "TrainConfig",
    "apply_overrides",
    "describe",
    "flatten",
    "from_mapping",
    "json_schema",
    "load",
    "show",
]
