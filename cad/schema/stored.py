"""Configs that files carry, also those that earlier versions wrote."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cad.config import from_mapping
from cad.models.registry import MODELS
from cad.schema.cell import Config

_TAKEN_OUT: dict[str, dict[str, object]] = {
    "model": {"latent_groups": None, "kept_steps": 0},
    "evaluation": {"compress_at": "full", "surprise_threshold": 1.0},
}
"""Settings that there are no more, by section, each with the value at which it changed nothing."""


def stored_config(data: object, where: str) -> Config:
    """The config in a file that this program or an earlier version of it wrote.

    Up to version 0.1 the section ``model`` held the settings of every kind; those of other kinds meant
    nothing and are left out, as are settings that were taken out since, where they changed nothing.  Raises
    :class:`~cad.errors.UsageError` that names ``where``.
    """
    if isinstance(data, Mapping):
        for section, gone in _TAKEN_OUT.items():
            if isinstance(values := data.get(section), Mapping):
                kept = {k: v for k, v in values.items() if k not in gone or v != gone[k]}
                data = {**data, section: _own_settings(kept) if section == "model" else kept}
    return from_mapping(Config, data, where)


def _own_settings(model: Mapping[str, Any]) -> dict[str, Any]:
    spec = MODELS.get(str(model.get("kind")))
    if spec is None:
        return dict(model)
    foreign = {key for other in MODELS.values() for key in other.config_class.model_fields}
    foreign -= spec.config_class.model_fields.keys()
    return {key: value for key, value in model.items() if key not in foreign}
