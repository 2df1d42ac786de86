"""Weights files, and weights from one training to another: a pre-trained encoder, or an AD's decoder.

Every weights file carries the config that it was made with.  What has to agree is compared there, so
that a message about a mismatch names the config's keys.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from cad.checksums import DamagedFileError, is_missing, read_bytes, require_file, stage_remedy
from cad.envs.registry import task_family
from cad.envs.split import split_tasks
from cad.errors import CadError
from cad.models.config import ModelConfig
from cad.models.network import SequenceModel
from cad.models.spec import WeightTransfer
from cad.schema import Config, stored_config
from cad.storage import atomic_path


@dataclass(frozen=True)
class Weights:
    """A weights file: tensors by name, and the config that they were trained with."""

    path: Path
    tensors: dict[str, Tensor]
    config: Config


def save_weights(
    path: Path,
    config: Config,
    module: nn.Module,
    prefixes: tuple[str, ...] = ("",),
    stage: str | None = None,
) -> None:
    """Write the weights of ``module`` that begin with one of ``prefixes`` (:func:`write_weights`)."""
    state = {name: t.contiguous() for name, t in module.state_dict().items() if name.startswith(prefixes)}
    write_weights(path, config, state, stage=stage)


def write_weights(
    path: Path,
    config: Config,
    tensors: Mapping[str, Tensor],
    *,
    stage: str | None = None,
    provenance: Mapping[str, object] | None = None,
) -> None:
    """Write weights by name; the metadata hold the config, whose they are, and a checksum of all of it."""
    metadata = {"config": json.dumps(config.model_dump(mode="json"), sort_keys=True)}
    if stage is not None:
        metadata["stage"] = stage
    if provenance is not None:
        metadata["provenance"] = json.dumps(provenance, sort_keys=True)
    metadata["checksum"] = _checksum(tensors, metadata)
    with atomic_path(path) as temporary:
        temporary.write_bytes(_in_order(safetensors.torch.save(dict(tensors), metadata)))


def _in_order(data: bytes) -> bytes:
    """A safetensors file whose header is sorted: the library's order of metadata differs each time."""
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.dumps(json.loads(data[8:end]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)  # tensors begin at a multiple of eight
    return len(header).to_bytes(8, "little") + header + data[end:]


# Others would be damage: a flipped bit in "checksum" must not make a file one of an earlier version.
_METADATA = {"config", "stage", "provenance", "checksum"}


def _checksum(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    digest = hashlib.sha256(json.dumps({**metadata, "checksum": ""}, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def read_weights(path: Path, key: str = "", stage: str | None = None) -> Weights:
    """Read what :func:`write_weights` wrote; ``key`` is the setting that names the file, for messages.

    Files of earlier versions have no checksum.  Raises :class:`CadError` for a file that is missing,
    cannot be read, is damaged, was not written by cad, or is that of another stage than ``stage``.
    """
    where = f"{key}: {path}" if key else str(path)
    remedy = "get another copy of it" if stage is None else stage_remedy(path.parent)
    if is_missing(path):
        raise CadError(f"{where} is missing; give the path of a .safetensors file")
    if stage is not None:
        require_file(path, remedy)
    data = read_bytes(path)
    try:
        tensors = safetensors.torch.load(data)
        metadata = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")]).get("__metadata__") or {}
    except (safetensors.SafetensorError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise DamagedFileError(path, f"it cannot be read as safetensors: {error}", remedy, key) from error
    if "config" not in metadata and "checksum" not in metadata:
        raise CadError(f"{where} carries no config: it was not written by cad")
    actual = _checksum(tensors, metadata)
    if metadata.keys() - _METADATA or metadata.get("checksum", actual) != actual:
        raise DamagedFileError(path, "it differs from its own checksum", remedy, key)
    if stage is not None and metadata.get("stage", stage) != stage:
        raise DamagedFileError(path, f"it is that of {metadata['stage']}, not of {stage}", remedy, key)
    try:
        stored = json.loads(metadata["config"])
    except (KeyError, json.JSONDecodeError) as error:
        raise DamagedFileError(path, f"its config cannot be read: {error}", remedy, key) from error
    return Weights(path, tensors, stored_config(stored, str(path)))


def load_encoder(
    model: SequenceModel, config: Config, path: Path, key: str, stage: str | None = None
) -> None:
    """Put the encoder in ``path`` into ``model``, by the ``encoder_transfer`` of its kind.

    Raises :class:`CadError` naming every setting and every tensor's shape that differs.
    """
    _load(config.spec.encoder_transfer, model, config, path, key, stage)


def load_decoder(
    model: SequenceModel, config: Config, path: Path, key: str, stage: str | None = None
) -> None:
    """Put the decoder in ``path`` into ``model``, by the ``decoder_transfer`` of its kind.

    Raises :class:`CadError` naming every setting and every tensor's shape that differs.
    """
    _load(config.spec.decoder_transfer, model, config, path, key, stage)


def _load(
    transfer: WeightTransfer | None,
    model: SequenceModel,
    config: Config,
    path: Path,
    key: str,
    stage: str | None,
) -> None:
    assert transfer is not None  # the config's rules see to it
    weights = read_weights(path, key, stage)
    theirs = weights.config.model
    if reason := transfer.refuse_kind(theirs):
        raise CadError(f"{key}: {path} {reason}")
    _require_agreement(weights, config, key, transfer.settings)
    if reason := transfer.refuse_size(config.model, theirs):
        raise CadError(f"{key}: {path}: {reason}")
    _require_no_leak(weights, config, key)
    own = model.state_dict()
    _put(weights, own, transfer.pick(config.model, theirs, own, weights.tensors), key)


def _put(weights: Weights, own: dict[str, Tensor], taken: dict[str, Tensor | None], key: str) -> None:
    """Copy into the model's own tensors, if all are there and of the right shape."""
    problems = []
    for name, tensor in taken.items():
        if tensor is None:
            problems.append(f"{name} is missing")
        elif tensor.shape != own[name].shape:
            problems.append(f"{name} is {tuple(tensor.shape)}, here {tuple(own[name].shape)}")
    if problems:
        raise CadError(f"{key}: {weights.path} does not fit: {'; '.join(problems)}")
    for name, tensor in taken.items():
        if tensor is not None:
            own[name].copy_(tensor)


def _require_agreement(weights: Weights, config: Config, key: str, settings: Iterable[str]) -> None:
    differing = [
        f"model.{name} is {theirs} there and {ours} here"
        for name in settings
        if (theirs := _value(weights.config.model, name)) != (ours := _value(config.model, name))
    ]
    theirs_env, ours_env = weights.config.env, config.env
    if task_family(theirs_env).spaces != task_family(ours_env).spaces:
        differing[:0] = [
            f"env.{name} is {theirs_env.rules.get(name)} there and {ours_env.rules.get(name)} here"
            for name in {**theirs_env.rules, **ours_env.rules}
            if theirs_env.rules.get(name) != ours_env.rules.get(name)
        ]
    if differing:
        raise CadError(f"{key}: {weights.path} does not fit: {'; '.join(differing)}")


def _value(model: ModelConfig, name: str) -> object:
    # Its default is a function of the width.
    return model.inner_width if name == "n_inner" else getattr(model, name)


def require_same_model(weights: Weights, config: Config, key: str) -> None:
    """Raise :class:`CadError` where a file's model or tasks are not those of ``config``.

    Weights of another split are refused where they were trained on what is evaluated here.
    """
    theirs = weights.config.model
    if theirs.kind != config.model.kind:
        raise CadError(f"{key}: {weights.path} holds model.kind={theirs.kind}, here {config.model.kind}")
    _require_agreement(weights, config, key, type(theirs).model_fields)
    _require_no_leak(weights, config, key)


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
