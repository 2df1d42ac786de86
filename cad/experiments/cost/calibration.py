"""Measure rates: from finished stages in a folder of runs, else by a few seconds of the real work."""

from __future__ import annotations

import contextlib
import json
import logging
import socket
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import TypeAdapter

import cad
from cad.config import FileConfig
from cad.envs.registry import task_family
from cad.envs.split import split_tasks
from cad.errors import CadError
from cad.evaluation.rollout import roll_out
from cad.experiments.cost.estimate import Rate, Rates, rate_key, steps_of, work_of
from cad.experiments.plan.directory import StageDirectory, StageFile, stages_folder
from cad.experiments.plan.stage import Stage
from cad.histories.made_up import made_up_histories
from cad.histories.sampler import HistoryArrays
from cad.interrupt import InterruptedRun, StopFlag
from cad.process import prepare_process
from cad.schema import Config
from cad.storage import make_dirs, write_json
from cad.training.learner import Learner, build_model, build_pretraining, build_training
from cad.training.packed.shape import pack_key

log = logging.getLogger(__name__)

# A measurement takes this many seconds of work, and is cut short after this many on the wall.
_SECONDS, _PATIENCE = 0.3, 5.0
_STEPS_OF_GRAPHS = 20
_KEPT = "calibration.json"
# How work is counted; another way needs another name here, as kept rates go with their work.
_WORK = "burn-in by a third"


def measured_rates(root: Path, stages: Iterable[Stage], device_of: Callable[[Stage], str]) -> Rates:
    """The rates that ``stages`` need: those of all finished stages under ``root``, of any experiment.

    Missing ones are measured here, the most expensive stage first: others of similar size then need no
    measurement.  What was measured is kept in ``root``.  A stage that does not fit this machine (its
    memory, say) stays unknown.
    """
    kept = _kept(root)
    rates = Rates([*finished_rates(root), *kept])
    measured = len(kept)
    for stage in sorted(stages, key=work_of, reverse=True):
        device = device_of(stage)
        if steps_of(stage) and rates.of(stage, device) is None:
            log.info("measuring how long %s takes (a few seconds)", stage.name)
            try:
                kept.append(calibrate(stage, device))
                rates.add(kept[-1])
            except (CadError, RuntimeError, MemoryError) as error:  # torch's, where memory is short
                log.warning("how long %s takes cannot be measured here: %s", stage.name, error)
    if len(kept) > measured:
        # Without permission to write there, the next call measures again.
        with contextlib.suppress(CadError):
            make_dirs(root)
            write_json(root / _KEPT, {"machine": _machine(), "rates": [asdict(rate) for rate in kept]})
    return rates


def _kept(root: Path) -> list[Rate]:
    """What was measured earlier on this machine with this version of cad."""
    try:
        read = json.loads((root / _KEPT).read_text(encoding="utf-8"))
        if read["machine"] != _machine():
            return []
        return [
            Rate(
                tuple(rate["key"]), float(rate["work"]), float(rate["steps_per_second"]), str(rate["source"])
            )
            for rate in read["rates"]
        ]
    except (OSError, ValueError, TypeError, KeyError):
        return []


def _machine() -> list[str]:
    versions = [cad.__version__, _WORK, torch.__version__]
    return [socket.gethostname(), *versions, str(torch.cuda.is_available())]


def finished_rates(root: Path) -> list[Rate]:
    """The rates of all finished stages under ``root``."""
    names = sorted(marker.parent.name for marker in stages_folder(root).glob(f"*/{StageFile.DONE}"))
    return [rate for name in names if (rate := _finished_rate(StageDirectory(root, name)))]


def calibrate(stage: Stage, device: str) -> Rate:
    """Measure a stage's rate by a moment of its work, on made-up histories and one thread."""
    prepare_process(1)
    used = device if device == "cpu" or torch.cuda.is_available() else "cpu"
    seconds = _SECONDS_A_STEP[stage.kind](stage.config, torch.device(used))
    # Without a GPU here, the CPU's rate stands in for it; the estimate says so.
    source = "calibration" if used == device else "calibration without a GPU"
    return Rate(rate_key(stage, device), work_of(stage), 1 / seconds, source)


def _finished_rate(directory: StageDirectory) -> Rate | None:
    """The rate of a finished stage; None where its record lacks one, or is of another version."""
    try:
        record, identity = directory.record(), directory.identity()
        settings = dict(identity["config"])
        if identity["kind"] == "evaluate":
            settings |= StageDirectory(directory.root, identity["inputs"][0]).identity()["config"]
        # Section by section: defaults replace what is not recorded, and need not fit the other sections.
        sections = {
            name: TypeAdapter(field.rebuild_annotation()).validate_python(settings[name])
            for name, field in Config.model_fields.items()
            if name in settings
        }
        stage = Stage(identity["kind"], Config().model_copy(update=sections))
        key = rate_key(stage, record.get("device", "cpu"))
        steps_per_second = _recorded_steps_per_second(record, stage)
        return Rate(key, work_of(stage), steps_per_second, "finished") if steps_per_second > 0 else None
    except (CadError, ValueError, KeyError, TypeError, ZeroDivisionError):
        return None


def _recorded_steps_per_second(record: dict[str, Any], stage: Stage) -> float:
    config = stage.config
    if stage.kind == "histories":
        transitions = record["collected"] * config.source.n_streams * config.source.steps_per_stream
        return float(transitions / (record["collect_seconds"] * record["workers"]))
    if stage.kind == "evaluate":
        return float(record["steps_per_second"] / (config.n_evaluated * config.evaluation.n_rollouts))
    return float(record["updates"] / record["train_seconds"])


def _histories(config: Config, _device: torch.device) -> float:
    # Imported here: stable-baselines3 is slow to import.
    from cad.histories.source import learn_tasks

    source, family = config.source, task_family(config.env)
    if isinstance(source, FileConfig):
        return 1e-9  # they are there: copied and checked
    tasks = family.task_ids[: source.tasks_at_once]

    def took(iterations: int) -> float:
        begun = time.process_time()
        short = source.model_copy(update={"steps_per_stream": iterations * source.iteration_steps})
        learn_tasks(family, tasks, short)
        return time.process_time() - begun

    took(1)
    # The last iteration of a collection has no update: what two more cost is two whole ones.
    return max(1e-9, took(3) - took(1)) / (2 * source.iteration_steps * source.n_streams * len(tasks))


def _pretrain(config: Config, device: torch.device) -> float:
    config = _harmless(config)
    return _update_seconds(build_pretraining(config, _made_up(config)), device)


def _train(config: Config, device: torch.device) -> float:
    settings, learner = config.train, build_training(_harmless(config), _made_up(config))
    if pack_key(config) is None:  # nor are its updates CUDA graphs, although those that are measured could be
        learner = replace(learner, config=config)
    update = _update_seconds(learner, device)
    if not settings.validate_every:
        return update
    tasks = split_tasks(config.env).validation
    step = _roll_out_seconds(config, tasks, settings.validation_rollouts, device)
    validations = -(-settings.n_updates // settings.validate_every)
    steps = validations * settings.validation_episodes * config.env.steps_per_episode
    return update + steps * step / settings.n_updates


def _evaluate(config: Config, device: torch.device) -> float:
    return _roll_out_seconds(config, config.evaluated_tasks, config.evaluation.n_rollouts, device)


_SECONDS_A_STEP: dict[str, Callable[[Config, torch.device], float]] = {
    "histories": _histories,
    "pretrain": _pretrain,
    "train": _train,
    "evaluate": _evaluate,
}


def _made_up(config: Config) -> HistoryArrays:
    return made_up_histories(task_family(config.env), config.source.steps_per_stream)


def _harmless(config: Config) -> Config:
    """The same work an update, but nothing that could stop a training from which nothing is learned."""
    loop = {"n_updates": 1000, "log_every": 1, "checkpoint_every": 1000, "learning_rate": 1e-6,
            "muon_learning_rate": 1e-6, "compile": False, "engine": "plain", "zero_stage": None,
            "loggers": ()}  # fmt: skip
    # What an update costs at full depth: an estimate for a curriculum is an upper bound.
    train = {**loop, "validate_every": 0, "watchdog_share": None, "depth_curriculum": 0.0}
    pretrain = {**loop, "collapse_variance": 0.0}
    return config.model_copy(
        update={
            "train": config.train.model_copy(update=train),
            "pretrain": config.pretrain.model_copy(update=pretrain),
        }
    )


class _Stopwatch:
    """Requests a stop when it has seen enough steps; the first one, which is slower, is not counted.

    On a CPU it counts this process's own time, so that other processes do not distort it.  With ``graphs``,
    which take longer to capture than many steps to compute, it looks at more steps, and at their median.
    """

    def __init__(self, device: torch.device, *, graphs: bool = False) -> None:
        self.stop = StopFlag()
        self._graphs = graphs
        self._clock = time.process_time if device.type == "cpu" else time.perf_counter
        self._ticks: list[float] = []
        self._begun = time.perf_counter()

    def __call__(self, _done: int, _values: object = None) -> None:
        self._ticks.append(self._clock())
        measured = self._ticks[-1] - self._ticks[0]
        late = time.perf_counter() - self._begun > _PATIENCE
        enough = _STEPS_OF_GRAPHS if self._graphs else 2
        if (len(self._ticks) > enough and measured > _SECONDS) or (len(self._ticks) > 1 and late):
            self.stop.request()

    @property
    def seconds_a_step(self) -> float:
        steps = np.diff(self._ticks)
        return float(np.median(steps) if self._graphs else steps.mean())


def _update_seconds(learner: Learner, device: torch.device) -> float:
    """Of one update in the real training loop, with settings that :func:`_harmless` made."""
    graphs = device.type == "cuda" and learner.has_graphs
    watch, folder = _Stopwatch(device, graphs=graphs), tempfile.TemporaryDirectory(prefix="cad-calibration-")
    with folder as path, contextlib.suppress(InterruptedRun):
        learner.fit(Path(path), run_id="calibration", device=device, stop=watch.stop, progress=watch)
    return watch.seconds_a_step


def _roll_out_seconds(config: Config, tasks: Sequence[int], n_rollouts: int, device: torch.device) -> float:
    """Of one step of all roll-outs together, over as many episodes as fill the window twice."""
    horizon, watch = config.env.steps_per_episode, _Stopwatch(device)
    filled = -(-2 * config.model.uncompressed_steps // horizon)
    model = build_model(config).to(device).eval()
    with contextlib.suppress(InterruptedRun):
        roll_out(
            model,
            task_family(config.env),
            tasks,
            n_rollouts=n_rollouts,
            n_episodes=max(3, filled + 1),
            seed=0,
            stop=watch.stop,
            progress=watch,
        )
    return watch.seconds_a_step / horizon
