"""Sequence models: one folder a kind, :mod:`.blocks` that several share, a spec and a registry."""

from __future__ import annotations

from cad.models.config import ModelConfig
from cad.models.registry import MODELS, build_model, new_memory, spec_of
from cad.models.spec import ModelSpec, Sections

__all__ = ["MODELS", "ModelConfig", "ModelSpec", "Sections", "build_model", "new_memory", "spec_of"]
