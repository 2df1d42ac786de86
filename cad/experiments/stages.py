"""What each stage does: the effects behind :mod:`cad.experiments.plan`'s decisions.

``run_stage`` is the one entry for every way of running: inline, in a local process, in a job.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from cad.config.schema import Config
from cad.envs import split_tasks, task_family
from cad.errors import CadError
from cad.evaluation.results import save_results
from cad.evaluation.rollout import roll_out
from cad.experiments.directory import StageDirectory
from cad.experiments.plan import Stage
from cad.histories.audit import require_sound
from cad.histories.collect import collect
from cad.histories.file import open_histories
from cad.histories.sampler import HistoryArrays, WindowSampler, read_arrays
from cad.interrupt import StopFlag
from cad.models import SequenceModel, build_model
from cad.storage import BusyError, atomic_path, folder_lock
from cad.training.loop import train

log = logging.getLogger(__name__)

HISTORIES_FILE = "histories.h5"
MODEL_FILE = "model.safetensors"
RESULTS_FILE = "returns.h5"


@dataclass(frozen=True)
class Resources:
    """What a stage may use; none of it changes a result."""

    workers: int = 1
    device: str = "cpu"
    threads: int = 1
    trace: Callable[[str], None] | None = None  # is told of every compression of an evaluation


def run_stage(root: Path, stage: Stage, resources: Resources, stop: StopFlag, *, wait: bool = False) -> None:
    """Run one stage in its directory, or go on where an earlier run left off; nothing if it is done.

    With ``wait`` a stage that another process is working on is waited for, otherwise refused.
    Raises :class:`CadError` when an input is missing.
    """
    directory = StageDirectory(root, stage)
    while True:
        try:
            with folder_lock(directory.path, f"stage {stage.name}"):
                if not directory.done:
                    _run(directory, resources, stop)
                return
        except BusyError:
            if not wait:
                raise
            stop.raise_if_set(f"waiting for stage {stage.name}")
            time.sleep(1)


def _run(directory: StageDirectory, resources: Resources, stop: StopFlag) -> None:
    for needed in directory.stage.inputs:
        if not StageDirectory(directory.root, needed).done:
            raise CadError(f"{directory.stage.name} needs {needed.name}, which is not complete")
    directory.claim()
    torch.set_num_threads(resources.threads)
    started = time.perf_counter()
    facts = _WORK[directory.stage.kind](directory, resources, stop)
    directory.finish({"wall_seconds": time.perf_counter() - started, **facts})


def _histories(directory: StageDirectory, resources: Resources, stop: StopFlag) -> dict[str, Any]:
    config = directory.stage.config
    out = directory.file(HISTORIES_FILE)

    def progress(done: int, total: int) -> None:
        directory.report(done, total)
        stop.raise_if_set(f"collection ({done} of {total} tasks)")

    if not out.exists():
        collect(config.env, config.source, out, workers=resources.workers, progress=progress)
    require_sound(out, config.env)
    return {}


def _train(directory: StageDirectory, resources: Resources, stop: StopFlag) -> dict[str, Any]:
    config = directory.stage.config
    histories = StageDirectory(directory.root, directory.stage.inputs[0]).file(HISTORIES_FILE)
    require_sound(histories, directory.stage.inputs[0].config.env)
    sampler = WindowSampler(config, load_training_arrays(config, histories))
    device = pick_device(resources.device)
    torch.manual_seed(config.seed)
    model = build_model(config)
    summary = train(
        config,
        model,
        sampler,
        directory.path,
        run_id=directory.stage.name,
        device=device,
        stop=stop,
        validate=lambda model: validation_return(config, model),
        progress=lambda step, values: directory.report(step, config.train.n_updates, **values),
    )
    save_model(directory.file(MODEL_FILE), config, model)
    return {
        "train_seconds": summary.seconds,
        "updates": summary.updates,
        "parameters": sum(p.numel() for p in model.parameters()),
    }


def _evaluate(directory: StageDirectory, resources: Resources, stop: StopFlag) -> dict[str, Any]:
    config = directory.stage.config
    trained = StageDirectory(directory.root, directory.stage.inputs[0])
    model = load_model(trained.file(MODEL_FILE), config).to(pick_device(resources.device)).eval()
    settings = config.evaluation
    trace = resources.trace
    result = roll_out(
        model,
        task_family(config.env),
        split_tasks(config.env).heldout,
        n_rollouts=settings.n_rollouts,
        n_episodes=settings.n_episodes,
        seed=settings.seed,
        temperature=settings.temperature,
        greedy=settings.greedy,
        stop=stop,
        progress=lambda done: directory.report(done, settings.n_episodes),
        on_compress=(lambda event: trace(str(event))) if trace else None,
    )
    save_results(directory.file(RESULTS_FILE), result)
    return {"steps_per_second": result.steps_per_second}


_WORK: dict[str, Callable[[StageDirectory, Resources, StopFlag], dict[str, Any]]] = {
    "histories": _histories,
    "train": _train,
    "evaluate": _evaluate,
}


def pick_device(name: str) -> torch.device:
    """``auto`` is the first CUDA device where there is one, else the CPU."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def load_training_arrays(config: Config, histories: Path) -> HistoryArrays:
    """The histories of the training tasks alone: held-out and validation tasks are never read."""
    with open_histories(histories) as file:
        return read_arrays(file, split_tasks(config.env).train, config.env.steps_per_episode)


def validation_return(config: Config, model: SequenceModel) -> float:
    """Mean return, as a share of the optimum, in the last half of a validation roll-out."""
    family, tasks = task_family(config.env), split_tasks(config.env).validation
    result = roll_out(
        model,
        family,
        tasks,
        n_rollouts=config.train.validation_rollouts,
        n_episodes=config.train.validation_episodes,
        seed=config.seed,
    )
    late = result.returns[:, :, config.train.validation_episodes // 2 :].mean(axis=(1, 2))
    optimum = [family.optimal_return(task) for task in tasks]
    return float((late / optimum).mean())


def save_model(path: Path, config: Config, model: SequenceModel) -> None:
    """Write the weights, with the config in the file's metadata."""
    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    metadata = {"config": json.dumps(config.model_dump(mode="json"), sort_keys=True)}
    with atomic_path(path) as temporary:
        temporary.write_bytes(safetensors.torch.save(state, metadata))


def load_model(path: Path, config: Config) -> SequenceModel:
    """The model that ``config`` describes with the weights of ``path``."""
    model = build_model(config)
    try:
        model.load_state_dict(safetensors.torch.load_file(path))
    except FileNotFoundError as error:
        raise CadError(f"{path} is missing; train the model again") from error
    except (safetensors.SafetensorError, RuntimeError) as error:
        raise CadError(f"{path} is damaged or of another config ({error})") from error
    return model
