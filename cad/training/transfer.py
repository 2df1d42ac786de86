"""Weights from one training to another: a pre-trained encoder, or AD's decoder, into CompressedAD.

Every weights file carries the config that it was made with; what has to agree is compared there,
so that a mismatch is told in the words of the config.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import safetensors
import safetensors.torch
from torch import Tensor, nn

from cad.config import from_mapping
from cad.config.schema import Config
from cad.envs import split_tasks
from cad.errors import CadError
from cad.models.compressed_ad import CompressedAD, Compressor
from cad.storage import atomic_path

_WIDTHS = ("n_embd", "n_head", "n_inner", "step_embedding", "embedding_norm", "norm")
_DECODER = (*_WIDTHS, "n_layer")
_ENCODER = (*_WIDTHS, "n_transit", "n_latent", "encoder_n_layer")


@dataclass(frozen=True)
class Weights:
    """A weights file: tensors by name, and the config that they were trained with."""

    path: Path
    tensors: dict[str, Tensor]
    config: Config


def save_weights(path: Path, config: Config, module: nn.Module, prefixes: tuple[str, ...] = ("",)) -> None:
    """Write the weights whose names begin with one of ``prefixes``, with the config as metadata."""
    state = {name: t.contiguous() for name, t in module.state_dict().items() if name.startswith(prefixes)}
    metadata = {"config": json.dumps(config.model_dump(mode="json"), sort_keys=True)}
    with atomic_path(path) as temporary:
        temporary.write_bytes(safetensors.torch.save(state, metadata))


def read_weights(path: Path, key: str) -> Weights:
    """Read what :func:`save_weights` wrote; ``key`` is the setting that names the file, for messages."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError as error:
        raise CadError(f"{key}: {path} is missing; give the path of a .safetensors file") from error
    except (OSError, safetensors.SafetensorError) as error:
        raise CadError(f"{key}: {path} cannot be read as safetensors ({error})") from error
    if "config" not in metadata:
        raise CadError(f"{key}: {path} carries no config: it was not written by cad")
    try:
        stored = json.loads(metadata["config"])
    except json.JSONDecodeError as error:
        raise CadError(f"{key}: {path}: its config is damaged ({error})") from error
    return Weights(path, tensors, from_mapping(Config, stored, str(path)))


def load_encoder(model: CompressedAD, config: Config, path: Path, key: str) -> None:
    """Put the encoder, first latents, step embedding and its norm of ``path`` into ``model``.

    Raises :class:`CadError` naming every setting and every tensor's shape that differs.
    """
    weights = read_weights(path, key)
    if weights.config.model.kind == "ad":
        raise CadError(f"{key}: {path} holds a model of kind ad, which has no encoder")
    _require_agreement(weights, config, key, ["env.size", *(f"model.{name}" for name in _ENCODER)])
    _require_no_leak(weights, config, key)
    own = model.state_dict()
    wanted = [name for name in own if name.startswith(Compressor.SHARED)]
    _put(weights, own, {name: weights.tensors.get(name) for name in wanted}, key)


def load_ad(model: CompressedAD, config: Config, path: Path, key: str) -> None:
    """Put the decoder and the step embedding of the AD in ``path`` into ``model``.

    AD's positions become those of the steps behind the latents; a longer window's last ones are left
    out.  Raises :class:`CadError` naming every setting and every tensor's shape that differs.
    """
    weights = read_weights(path, key)
    if weights.config.model.kind != "ad":
        raise CadError(f"{key}: {path} holds a model of kind {weights.config.model.kind}, not ad")
    _require_agreement(weights, config, key, ["env.size", *(f"model.{name}" for name in _DECODER)])
    theirs, ours = weights.config.model.n_transit, config.model.n_transit
    if theirs < ours:
        raise CadError(f"{key}: {path}: model.n_transit is {theirs} there, less than the {ours} here")
    _require_no_leak(weights, config, key)
    own = model.state_dict()
    found = {name: weights.tensors.get(name) for name in own if name.startswith(("embed.", "decoder."))}
    positions = found["decoder.positions"]
    if positions is not None:
        steps = own["decoder.positions"].clone()
        steps[config.model.n_latent :] = positions[:ours]
        found["decoder.positions"] = steps
    _put(weights, own, found, key)


def freeze_encoder(model: CompressedAD) -> None:
    """Leave out of training what :func:`load_encoder` brought."""
    for name, parameter in model.named_parameters():
        if name.startswith(Compressor.SHARED):
            parameter.requires_grad_(False)


def _put(weights: Weights, own: dict[str, Tensor], found: dict[str, Tensor | None], key: str) -> None:
    """Copy into the model's own tensors, if all are there and of the right shape."""
    problems = []
    for name, tensor in found.items():
        if tensor is None:
            problems.append(f"{name} is missing")
        elif tensor.shape != own[name].shape:
            problems.append(f"{name} is {tuple(tensor.shape)}, here {tuple(own[name].shape)}")
    if problems:
        raise CadError(f"{key}: {weights.path} does not fit: {'; '.join(problems)}")
    for name, tensor in found.items():
        if tensor is not None:
            own[name].copy_(tensor)


def _require_agreement(weights: Weights, config: Config, key: str, fields: Iterable[str]) -> None:
    differing = []
    for field in fields:
        theirs, ours = _value(weights.config, field), _value(config, field)
        if theirs != ours:
            differing.append(f"{field} is {theirs} there and {ours} here")
    if differing:
        raise CadError(f"{key}: {weights.path} does not fit: {'; '.join(differing)}")


def _value(config: Config, field: str) -> object:
    if field == "model.n_inner":  # its default is a function of the width
        return config.model.n_inner or 4 * config.model.n_embd
    section, _, name = field.partition(".")
    return getattr(getattr(config, section), name)


def _require_no_leak(weights: Weights, config: Config, key: str) -> None:
    """Held-out and validation tasks are not to have taught the weights."""
    theirs, ours = weights.config.env, config.env
    if theirs.name != ours.name:
        return
    kept, split = set(split_tasks(theirs).train), split_tasks(ours)
    seen = kept.intersection(split.heldout + split.validation)
    if seen:
        some = ", ".join(map(str, sorted(seen)[:8])) + (", ..." if len(seen) > 8 else "")
        raise CadError(
            f"{key}: {weights.path} was trained on {len(seen)} tasks that are held out or for validation "
            f"here ({some}): env.split_seed is {theirs.split_seed} there and {ours.split_seed} here; "
            "use weights of the same split"
        )
