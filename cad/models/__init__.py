"""Sequence models: step tokens, the shared decoder, AD, CompressedAD and RegionAD."""

from __future__ import annotations

from cad.config.schema import Config
from cad.models.ad import AD
from cad.models.compressed_ad import CompressedAD
from cad.models.memory import Memory, new_memory
from cad.models.reconstruction import EncoderPretraining
from cad.models.region_ad import RegionAD

SequenceModel = AD | CompressedAD | RegionAD

__all__ = [
    "AD",
    "CompressedAD",
    "EncoderPretraining",
    "Memory",
    "RegionAD",
    "SequenceModel",
    "build_model",
    "new_memory",
]


def build_model(config: Config) -> SequenceModel:
    """The model that a config describes, with weights drawn from torch's global generator."""
    if config.model.kind == "ad":
        return AD(config.model, config.env.size)
    if config.model.kind == "region_ad":
        return RegionAD(config.model, config.env.size)
    return CompressedAD(config.model, config.env.size)
