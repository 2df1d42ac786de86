"""Typed, frozen settings: sections that belong to no kind, and how settings are read and shown.

The sections of models and task families are beside their code; :mod:`cad.schema` puts all of them
together.  ``load`` and ``show`` are the functions; the modules of these names are reached by ``from``
imports.
"""

from __future__ import annotations

from cad.config.evaluation import EvaluationConfig
from cad.config.keys import KeyRow, describe, json_schema
from cad.config.load import Loaded, apply_overrides, flatten, from_mapping, load, read_override
from cad.config.section import Section
from cad.config.show import show
from cad.config.source import (
    FileConfig,
    LearnerConfig,
    NoiseDistillationConfig,
    PPOConfig,
    SB3Config,
    SourceConfig,
    source_config,
)
from cad.config.training import LoopConfig, PretrainConfig, TrainConfig

__all__ = [
    "EvaluationConfig",
    "FileConfig",
    "KeyRow",
    "LearnerConfig",
    "Loaded",
    "LoopConfig",
    "NoiseDistillationConfig",
    "PPOConfig",
    "PretrainConfig",
    "SB3Config",
    "Section",
    "SourceConfig",
    "TrainConfig",
    "apply_overrides",
    "describe",
    "flatten",
    "from_mapping",
    "json_schema",
    "load",
    "read_override",
    "show",
    "source_config",
]
