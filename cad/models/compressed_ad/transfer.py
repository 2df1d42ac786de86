"""Weights that CompressedAD takes over: a pre-trained encoder, or the decoder of an AD."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from cad.models.config import ModelConfig
from cad.models.spec import WeightTransfer

if TYPE_CHECKING:
    from torch import Tensor

ENCODER_WEIGHTS = ("embed.", "encoder.", "first_latents")
"""What the names of a pre-training's weights that a model takes over begin with."""

_WIDTHS = ("n_embd", "n_head", "n_inner", "step_embedding", "embedding_norm", "norm")


def _no_encoder(theirs: ModelConfig) -> str | None:
    if theirs.latents is None:
        return f"holds a model of kind {theirs.kind}, which has no encoder"
    return None


def _pick_encoder(
    _ours: ModelConfig, _theirs: ModelConfig, own: Mapping[str, Tensor], tensors: Mapping[str, Tensor]
) -> dict[str, Tensor | None]:
    return {name: tensors.get(name) for name in own if name.startswith(ENCODER_WEIGHTS)}


def _other_latents(ours: ModelConfig, theirs: ModelConfig) -> str | None:
    """Latents that are updated in another way."""
    own, donor = (getattr(config, "latent_update", "overwrite") for config in (ours, theirs))
    return None if own == donor else f"model.latent_update is {donor} there, {own} here"


def _no_ad(theirs: ModelConfig) -> str | None:
    return None if theirs.kind == "ad" else f"holds a model of kind {theirs.kind}, not ad"


def _too_short(ours: ModelConfig, theirs: ModelConfig) -> str | None:
    here, there = ours.uncompressed_steps, theirs.uncompressed_steps
    if there < here:
        return f"model.n_transit is {there} there, less than the {here} here"
    return None


def _pick_decoder(
    ours: ModelConfig, _theirs: ModelConfig, own: Mapping[str, Tensor], tensors: Mapping[str, Tensor]
) -> dict[str, Tensor | None]:
    """AD's positions become those of the steps after the latents, as many as the window has."""
    picked = {name: tensors.get(name) for name in own if name.startswith(("embed.", "decoder."))}
    positions = picked["decoder.positions"]
    if positions is not None:
        steps = own["decoder.positions"].clone()
        steps[ours.latents or 0 :] = positions[: ours.uncompressed_steps]
        picked["decoder.positions"] = steps
    return picked


ENCODER_TRANSFER = WeightTransfer(
    (*_WIDTHS, "n_transit", "n_latent", "encoder_n_layer"), _no_encoder, _other_latents, _pick_encoder
)
DECODER_TRANSFER = WeightTransfer((*_WIDTHS, "n_layer"), _no_ad, _too_short, _pick_decoder)
