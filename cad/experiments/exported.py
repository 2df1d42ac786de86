"""One file of a trained model: written from any engine's checkpoint, evaluated without that engine."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import yaml
from torch import Tensor

from cad.config import apply_overrides, from_mapping
from cad.config.schema import Config
from cad.envs import task_family
from cad.errors import CadError, UsageError
from cad.evaluation.results import save_results
from cad.experiments.origin import code_version
from cad.experiments.stages import evaluate, load_model, pick_device
from cad.interrupt import stop_on_signals
from cad.models import build_model
from cad.storage import atomic_path, sha256_file
from cad.training.checkpoint import load_newest
from cad.training.transfer import read_weights


def export_training(stage: str, root: Path, out: Path) -> str:
    """Write the newest sound checkpoint of a training to ``out``; what to tell the user.

    ``stage`` is a stage directory or the name of one under ``root``.  The file holds the weights
    alone, whole and in fp32; its metadata the ``config`` and the ``provenance``, both JSON.
    """
    folder = Path(stage) if Path(stage).is_dir() else root / "stages" / stage
    if not folder.name.startswith("train-"):
        raise UsageError(f"{stage} is no training; `cad status` or `cad run --dry-run` name the stages")
    found = load_newest(folder / "checkpoints", folder.name)
    if found is None:
        raise CadError(f"{folder / 'checkpoints'} holds no sound checkpoint; train first")
    if "config" not in found.origin:
        raise CadError(f"{folder} was trained by an earlier version; its model.safetensors is what there is")
    config = from_mapping(Config, found.origin["config"], str(folder))
    version, changed = code_version()
    provenance: dict[str, Any] = {
        "stage": folder.name,
        "step": found.step,
        "n_updates": config.train.n_updates,
        "supervised_actions": found.supervised_actions,
        "train_seconds": found.seconds,
        "engine": found.origin["engine"],
        "ranks": found.origin["ranks"],
        "code_version": version,
        "code_differs_from_commit": changed,
        "torch": torch.__version__,
    }
    tensors = _model_tensors(config, found.tensors)
    metadata = {
        "config": json.dumps(config.model_dump(mode="json"), sort_keys=True),
        "provenance": json.dumps(provenance, sort_keys=True),
    }
    with atomic_path(out) as temporary:
        temporary.write_bytes(safetensors.torch.save(tensors, metadata))
    n = sum(t.numel() for t in tensors.values())
    return (
        f"{out}: {n:,} weights after {found.step} of {config.train.n_updates} updates, "
        f"sha256 {sha256_file(out)}"
    )


def _model_tensors(config: Config, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The model's own weights, without what only trained beside it (the reconstruction decoder)."""
    names = build_model(config).state_dict().keys()
    prefix = "model/model." if "model/model.decoder.positions" in tensors else "model/"
    return {name: tensors[prefix + name].contiguous() for name in names}


def evaluate_exported(
    file: Path,
    overrides: Sequence[str],
    device: str,
    out: Path | None,
    trace: Callable[[str], None] | None = None,
) -> str:
    """Put an exported model into its held-out (or validation) tasks; a table of returns, by task.

    ``overrides`` are words like ``evaluation.n_episodes=500``; with ``out`` the returns are kept, and
    ``trace`` is told of every compression as it happens.
    """
    config = apply_overrides(
        read_weights(file, "--model").config, dict(_parse(word) for word in overrides), "the command line"
    )
    model = load_model(file, config).to(pick_device(device)).eval()
    settings, family = config.evaluation, task_family(config.env)
    with stop_on_signals() as stop:
        on_compress = (lambda event: trace(str(event))) if trace else None
        result = evaluate(model, config, stop, on_compress=on_compress)
    if out is not None:
        save_results(out, result)
    last = min(10, settings.n_episodes)
    late = result.returns[:, :, -last:].mean(axis=(1, 2))
    lines = [f"mean return over the last {last} of {settings.n_episodes} episodes"]
    shares = []
    for task, value in zip(result.task_ids, late, strict=True):
        optimum = family.optimal_return(task)
        shares.append(float(value) / optimum)
        lines.append(f"  task {task}: {value:.3f} of {optimum:g}")
    lines.append(f"return / optimum: {sum(shares) / len(shares):.3f}")
    return "\n".join(lines)


def _parse(word: str) -> tuple[str, object]:
    key, _, text = word.partition("=")
    if not key.startswith("evaluation."):
        raise UsageError(f"{word}: the model's own settings are in its file; only evaluation.* can be set")
    return key, yaml.safe_load(text)
