"""The kinds of models that there are: one line each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cad.config.kinds import section_by_kind
from cad.models.ad.spec import ADSpec
from cad.models.compressed_ad.config import CompressedADConfig
from cad.models.compressed_ad.spec import CompressedADSpec
from cad.models.config import ModelConfig
from cad.models.gru.spec import GRUSpec
from cad.models.linear_attention.spec import LinearAttentionSpec
from cad.models.region_ad.spec import RegionADSpec
from cad.models.spec import AnySpec

if TYPE_CHECKING:
    from cad.envs.family import Spaces
    from cad.models.memory import Memory
    from cad.models.network import SequenceModel

MODELS: dict[str, AnySpec] = {
    "ad": ADSpec(),
    "compressed_ad": CompressedADSpec(),
    "region_ad": RegionADSpec(),
    "gru": GRUSpec(),
    "linear_attention": LinearAttentionSpec(),
}

DEFAULT_MODEL = CompressedADConfig()

if TYPE_CHECKING:
    AnyModelConfig = ModelConfig
else:
    AnyModelConfig = section_by_kind(
        {kind: spec.config_class for kind, spec in MODELS.items()}, "kind", DEFAULT_MODEL.kind
    )


def spec_of(config: ModelConfig) -> AnySpec:
    """What the kind of a config's model brings."""
    return MODELS[config.kind]


def build_model(config: ModelConfig, spaces: Spaces) -> SequenceModel:
    """The model that a config describes, with weights drawn from torch's global generator."""
    return spec_of(config).build(config, spaces)


def new_memory(model: SequenceModel, batch: int) -> Memory:
    """An empty memory for ``batch`` roll-outs of ``model``."""
    return spec_of(model.config).new_memory(model, batch)
