"""What each stage does: the effects behind :mod:`cad.experiments.plan`'s decisions.

``run_stage`` is the one entry for every way of running: inline, in a local process, in a job.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import nn

from cad.config.schema import Config
from cad.envs import evaluated_tasks, split_tasks, task_family
from cad.errors import CadError
from cad.evaluation.actions_file import save_actions
from cad.evaluation.compression_steps import CompressionEvent
from cad.evaluation.results import save_results
from cad.evaluation.rollout import RolloutResult, roll_out
from cad.experiments.directory import StageDirectory
from cad.experiments.origin import made_by
from cad.experiments.plan import Stage, StageKind
from cad.histories.audit import require_sound
from cad.histories.collect import collect
from cad.histories.file import open_histories
from cad.histories.sampler import HistoryArrays, WindowSampler, read_arrays, stream_arrays
from cad.interrupt import StopFlag
from cad.models import CompressedAD, EncoderPretraining, SequenceModel, build_model
from cad.models.reconstruction import WithReconstruction
from cad.process import prepare_process
from cad.storage import BusyError, folder_lock
from cad.training.loop import TrainingSummary, train
from cad.training.ranks import SINGLE_PROCESS, Ranks
from cad.training.reconstruction import AuxiliaryObjective, PretrainingObjective, pretraining_config
from cad.training.regions import model_objective
from cad.training.rendezvous import device_of_rank
from cad.training.transfer import freeze_encoder, load_ad, load_encoder, save_weights

log = logging.getLogger(__name__)

HISTORIES_FILE = "histories.h5"
ENCODER_FILE = "encoder.safetensors"
MODEL_FILE = "model.safetensors"
RESULTS_FILE = "returns.h5"
ACTIONS_FILE = "actions.h5"
STREAMED = "streamed"


@dataclass(frozen=True)
class Resources:
    """What a stage may use; none of it changes a result."""

    workers: int = 1
    device: str = "cpu"
    threads: int = 1
    ranks: int = 1  # processes that share one training, where its engine can
    trace: Callable[[str], None] | None = None  # is told of every compression of an evaluation
    provenance: Mapping[str, str] = field(default_factory=dict)  # code and image, noted in ``DONE``


def run_stage(
    root: Path,
    stage: Stage,
    resources: Resources,
    stop: StopFlag,
    *,
    wait: bool = False,
    ranks: Ranks = SINGLE_PROCESS,
) -> None:
    """Run one stage in its directory, or go on where an earlier run left off; nothing if it is done.

    With ``wait`` a stage that another process is working on is waited for, otherwise refused.  All
    ``ranks`` call this alike; the first one alone holds the directory and writes.
    Raises :class:`CadError` when an input is missing.
    """
    directory = StageDirectory(root, stage)
    if not ranks.first:
        if ranks.broadcast():
            _work(directory, resources, stop, ranks)
        return
    while True:
        try:
            with folder_lock(directory.path, f"stage {stage.name}"):
                todo = not directory.done
                if ranks.broadcast(todo):
                    _run(directory, resources, stop, ranks)
                return
        except BusyError:
            if not wait:
                raise
            stop.raise_if_set(f"waiting for stage {stage.name}")
            time.sleep(1)


def _run(directory: StageDirectory, resources: Resources, stop: StopFlag, ranks: Ranks) -> None:
    for needed in directory.stage.inputs:
        if not StageDirectory(directory.root, needed).done:
            raise CadError(f"{directory.stage.name} needs {needed.name}, which is not complete")
    directory.claim()
    started = time.perf_counter()
    facts = _work(directory, resources, stop, ranks)
    seconds = directory.seconds_before + time.perf_counter() - started
    took = {
        "wall_seconds": seconds,
        "attempts": directory.attempt,
        "cores": resources.workers if directory.stage.kind == "histories" else resources.threads,
        "device": pick_device(resources.device).type,
    }
    directory.finish({**took, **facts, "made_by": {**made_by(), **resources.provenance}})


def _work(directory: StageDirectory, resources: Resources, stop: StopFlag, ranks: Ranks) -> dict[str, Any]:
    """What every rank does; only trainings are shared out."""
    prepare_process(resources.threads)
    if directory.stage.kind == "pretrain":
        return _pretrain(directory, resources, stop, ranks)
    if directory.stage.kind == "train":
        return _train(directory, resources, stop, ranks)
    if not ranks.first:
        return {}
    work = _histories if directory.stage.kind == "histories" else _evaluate
    return work(directory, resources, stop)


def _histories(directory: StageDirectory, resources: Resources, stop: StopFlag) -> dict[str, Any]:
    config = directory.stage.config
    out = directory.file(HISTORIES_FILE)
    counts: list[int] = []
    started = time.perf_counter()

    def progress(done: int, total: int) -> None:
        counts.append(done)
        directory.report(done, total)
        stop.raise_if_set(f"collection ({done} of {total} tasks)")

    if not out.exists():
        collect(config.env, config.source, out, workers=resources.workers, progress=progress)
    seconds = time.perf_counter() - started
    require_sound(out, config.env)
    # Tasks that this process collected, of how many at a time: what an estimate goes by.
    collected = counts[-1] - counts[0] if counts else 0
    return {
        "collect_seconds": seconds,
        "collected": collected,
        "workers": min(resources.workers, max(1, collected)),
    }


def _input(directory: StageDirectory, kind: StageKind) -> StageDirectory | None:
    """The directory of the stage's first input of a kind."""
    found = [stage for stage in directory.stage.inputs if stage.kind == kind]
    return StageDirectory(directory.root, found[0]) if found else None


def _training_arrays(directory: StageDirectory, config: Config, ranks: Ranks) -> HistoryArrays:
    """The training tasks' histories, audited and, where it is asked for, copied by the first rank."""
    source = StageDirectory(directory.root, directory.stage.inputs[0])
    histories = source.file(HISTORIES_FILE)
    copy = directory.file(STREAMED) if config.train.stream else None
    arrays = None
    if ranks.first:
        require_sound(histories, source.stage.config.env)
        arrays = load_training_arrays(config, histories, copy)
    ranks.broadcast(True)
    return arrays or load_training_arrays(config, histories, copy)


def _pretrain(
    directory: StageDirectory, resources: Resources, stop: StopFlag, ranks: Ranks
) -> dict[str, Any]:
    config = pretraining_config(directory.stage.config)
    arrays = _training_arrays(directory, config, ranks)
    torch.manual_seed(config.seed)
    model = EncoderPretraining(config)
    summary = train(
        config,
        model,
        WindowSampler(config, arrays, segments=config.model.max_compression_depth),
        directory.path,
        run_id=directory.stage.name,
        device=device_of_rank(pick_device(resources.device), ranks.local_rank),
        stop=stop,
        objective=PretrainingObjective(config),
        progress=lambda step, values: directory.report(step, config.train.n_updates, **values),
        ranks=ranks,
    )
    if ranks.first:
        save_weights(directory.file(ENCODER_FILE), directory.stage.config, model, model.SHARED)
        shutil.rmtree(directory.file(STREAMED), ignore_errors=True)
    return _training_facts(summary, model, config, ranks)


def _train(directory: StageDirectory, resources: Resources, stop: StopFlag, ranks: Ranks) -> dict[str, Any]:
    config = directory.stage.config
    sampler = WindowSampler(config, _training_arrays(directory, config, ranks))
    torch.manual_seed(config.seed)
    model = build_model(config)
    learner: nn.Module = model
    objective = model_objective(config)
    if isinstance(model, CompressedAD):
        _take_over(directory, model)
        if config.train.reconstruction_weight:
            learner, objective = WithReconstruction(model, config), AuxiliaryObjective(config)
    summary = train(
        config,
        learner,
        sampler,
        directory.path,
        run_id=directory.stage.name,
        device=device_of_rank(pick_device(resources.device), ranks.local_rank),
        stop=stop,
        objective=objective,
        validate=lambda _: validation_return(config, model, ranks),
        progress=lambda step, values: directory.report(step, config.train.n_updates, **values),
        ranks=ranks,
    )
    if ranks.first:
        save_weights(directory.file(MODEL_FILE), config, model)
        shutil.rmtree(directory.file(STREAMED), ignore_errors=True)
    return _training_facts(summary, model, config, ranks)


def _training_facts(
    summary: TrainingSummary, model: nn.Module, config: Config, ranks: Ranks
) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "train_seconds": summary.seconds,
        "updates": summary.updates,
        "supervised_actions": summary.supervised_actions,
        "parameters": sum(p.numel() for p in model.parameters()),
    }
    if config.train.engine != "plain":
        facts |= {"engine": config.train.engine, "ranks": ranks.size}
    return facts


def _take_over(directory: StageDirectory, model: CompressedAD) -> None:
    """Give a fresh model the weights that its config wants from elsewhere."""
    config = directory.stage.config
    pretrained = _input(directory, "pretrain")
    if pretrained is not None:
        load_encoder(model, config, pretrained.file(ENCODER_FILE), "pretrain.enabled")
    elif config.train.pretrained_encoder_path is not None:
        key = "train.pretrained_encoder_path"
        load_encoder(model, config, Path(config.train.pretrained_encoder_path), key)
    warm = _input(directory, "train")
    if warm is not None:
        load_ad(model, config, warm.file(MODEL_FILE), "train.init_from_ad")
    elif config.train.init_from_ad is not None:
        load_ad(model, config, Path(config.train.init_from_ad), "train.init_from_ad")
    if config.freezes_encoder:
        freeze_encoder(model)


def _evaluate(directory: StageDirectory, resources: Resources, stop: StopFlag) -> dict[str, Any]:
    config = directory.stage.config
    trained = StageDirectory(directory.root, directory.stage.inputs[0])
    model = load_model(trained.file(MODEL_FILE), config).to(pick_device(resources.device)).eval()
    trace = resources.trace
    result = evaluate(
        model,
        config,
        stop,
        progress=lambda done: directory.report(done, config.evaluation.n_episodes),
        on_compress=(lambda event: trace(str(event))) if trace else None,
    )
    save_actions(directory.file(ACTIONS_FILE), result)
    save_results(directory.file(RESULTS_FILE), result)
    return {"steps_per_second": result.steps_per_second}


def evaluate(
    model: SequenceModel,
    config: Config,
    stop: StopFlag,
    progress: Callable[[int], None] | None = None,
    on_compress: Callable[[CompressionEvent], None] | None = None,
) -> RolloutResult:
    """The roll-outs of an evaluation: in all its tasks, as ``config.evaluation`` says."""
    settings = config.evaluation
    return roll_out(
        model,
        task_family(config.env),
        evaluated_tasks(config),
        n_rollouts=settings.n_rollouts,
        n_episodes=settings.n_episodes,
        seed=settings.seed,
        temperature=settings.temperature_at,
        greedy=settings.greedy,
        stop=stop,
        progress=progress,
        on_compress=on_compress,
    )


def pick_device(name: str) -> torch.device:
    """``auto`` is the first CUDA device where there is one, else the CPU."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def load_training_arrays(config: Config, histories: Path, copy: Path | None = None) -> HistoryArrays:
    """The histories of the training tasks alone: held-out and validation tasks are never read.

    With ``copy``, a folder, they are not held in memory but read from there.
    """
    tasks, horizon = split_tasks(config.env).train, config.env.steps_per_episode
    with open_histories(histories) as file:
        if copy is not None:
            return stream_arrays(file, tasks, horizon, copy)
        return read_arrays(file, tasks, horizon)


def validation_return(config: Config, model: SequenceModel, ranks: Ranks = SINGLE_PROCESS) -> float:
    """Mean return, as a share of the optimum, in the last half of a validation roll-out.

    Ranks share out the tasks; all of them get the same answer.
    """
    family, tasks = task_family(config.env), split_tasks(config.env).validation
    shares = torch.zeros(len(tasks), dtype=torch.float64)
    own = range(ranks.rank, len(tasks), ranks.size)
    if own:
        result = roll_out(
            model,
            family,
            [tasks[index] for index in own],
            n_rollouts=config.train.validation_rollouts,
            n_episodes=config.train.validation_episodes,
            seed=config.seed,
        )
        late = result.returns[:, :, config.train.validation_episodes // 2 :].mean(axis=(1, 2))
        for index, value in zip(own, late, strict=True):
            shares[index] = float(value) / family.optimal_return(tasks[index])
    return float(ranks.all_gather(shares).sum(dim=0).numpy().mean())


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
