"""Export a trained model to one file, and evaluate such a file without the engine that trained it."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from cad.config import read_override
from cad.envs.registry import task_family
from cad.errors import CadError, UsageError, printable
from cad.evaluation.results import save_results
from cad.experiments.plan.directory import StageDirectory, StageFile
from cad.experiments.reporting.environment_info import code_version
from cad.experiments.run.resources import pick_device
from cad.experiments.run.trained_model import evaluate, model_with
from cad.interrupt import stop_on_signals
from cad.schema import Config, stored_config
from cad.storage import make_dirs, sha256_file, write_text
from cad.training.checkpoint import load_newest
from cad.training.learner import build_model
from cad.training.transfer import Weights, read_weights, write_weights


def export_training(stage: str, root: Path, out: Path) -> str:
    """Write the newest sound checkpoint of a training to ``out``; returns a message for the user.

    ``stage`` is a stage directory or the name of one under ``root``.  The file holds only the weights,
    whole and in fp32.  See :func:`~cad.training.transfer.write_weights` for its metadata.
    """
    folder = Path(stage) if Path(stage).is_dir() else StageDirectory(root, stage).path
    checkpoints = folder / StageFile.CHECKPOINTS
    if not folder.name.startswith("train-"):
        raise UsageError(f"{stage} is not a training; `cad status` and `cad run --dry-run` list the stages")
    checkpoint = load_newest(checkpoints, folder.name)
    if checkpoint is None:
        raise CadError(f"{checkpoints} holds no sound checkpoint; train first")
    if "config" not in checkpoint.origin:
        raise CadError(f"{folder} was trained by an earlier version; use its {StageFile.MODEL} instead")
    config = stored_config(checkpoint.origin["config"], str(folder))
    version, changed = code_version()
    provenance: dict[str, Any] = {
        "stage": folder.name,
        "step": checkpoint.step,
        "n_updates": config.train.n_updates,
        "supervised_actions": checkpoint.supervised_actions,
        "train_seconds": checkpoint.seconds,
        "engine": checkpoint.origin["engine"],
        "ranks": checkpoint.origin["ranks"],
        "code_version": version,
        "code_differs_from_commit": changed,
        "torch": torch.__version__,
    }
    tensors = _model_tensors(config, checkpoint.tensors)
    write_weights(out, config, tensors, provenance=provenance)
    n = sum(t.numel() for t in tensors.values())
    return (
        f"{out}: {n:,} weights after {checkpoint.step} of {config.train.n_updates} updates, "
        f"sha256 {sha256_file(out)}"
    )


def _model_tensors(config: Config, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The model's own weights, without parts that only helped it learn (the reconstruction decoder)."""
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
    """Evaluate an exported model in its held-out (or validation) tasks; returns a table of returns by task.

    ``overrides`` are words like ``evaluation.n_episodes=500``; ``out`` is a file to keep the returns in.
    ``trace`` is called with a line for every compression.
    """
    weights, config = _with_overrides(file, overrides)
    model = model_with(weights, config).to(pick_device(device)).eval()
    settings, family = config.evaluation, task_family(config.evaluated_env)
    with stop_on_signals() as stop:
        on_compress = (lambda event: trace(str(event))) if trace else None
        result = evaluate(model, config, stop, on_compress=on_compress)
    if out is not None:
        save_results(out, result)
    last = min(10, settings.n_episodes - settings.demonstrated_episodes)
    late = result.returns[:, :, -last:].mean(axis=(1, 2))
    lines = [f"mean return over the last {last} of {settings.n_episodes} episodes"]
    best = [f" of {family.optimal_return(task):g}" * bool(family.best_in_words) for task in result.task_ids]
    lines += [
        f"  task {task}: {value:.3f}{of}" for task, value, of in zip(result.task_ids, late, best, strict=True)
    ]
    score = result.shares(family)[:, :, -last:].mean()
    divided = (
        f" / {family.score_in_words.removeprefix('the ')}" if family.best_in_words else ", mean of tasks"
    )
    lines.append(f"return{divided}: {score:.3f}")
    return "\n".join(lines)


def experiment_of(file: Path, overrides: Sequence[str], root: Path) -> Path:
    """Write an experiment file, under ``root``, that evaluates an exported model; returns its path.

    Its name holds a checksum: another file, or other overrides, are another experiment.
    """
    weights, config = _with_overrides(file, overrides)
    base = config.model_dump(mode="json", exclude={"seed"})
    base["train"] |= {
        "weights": str(file.absolute()),
        "init_from_ad": None,
        "pretrained_encoder_path": None,
        "freeze_encoder": False,
    }
    base["pretrain"] |= {"enabled": False}
    stem = re.sub(r"[^A-Za-z0-9._-]", "-", file.stem)[:60]
    digest = hashlib.sha256(json.dumps([base, sha256_file(file)], sort_keys=True).encode()).hexdigest()[:8]
    name = f"evaluate-{stem}-{digest}"
    experiment = {
        "name": name,
        "description": f"Evaluation of an exported model, {file.name}.",
        "base": base,
        "arms": [{"name": stem}],
        "seeds": [weights.config.seed],
        "report": {"title": f"Evaluation of {file.name}"},
    }
    out = make_dirs(root / name) / "experiment.yaml"
    write_text(out, yaml.safe_dump(experiment, sort_keys=False, allow_unicode=True))
    return out


def _with_overrides(file: Path, overrides: Sequence[str]) -> tuple[Weights, Config]:
    """A file's weights, and its config with other settings of the evaluation."""
    given = dict(_parse(word) for word in overrides)
    weights = read_weights(file, "--model")
    return weights, weights.config.with_overrides(given, "the command line")


def _parse(word: str) -> tuple[str, object]:
    key, value = read_override(word)
    if not key.startswith("evaluation."):
        raise UsageError(
            f"{printable(key, 80)}: the model's file fixes its own settings; only evaluation.* can be set"
        )
    return key, value
