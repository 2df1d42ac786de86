"""How long steps take: of finished stages in a folder of runs, else of a few seconds of the real work."""

from __future__ import annotations

import contextlib
import json
import logging
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from cad.config.schema import (
    N_ACTIONS,
    Config,
    EnvConfig,
    EvaluationConfig,
    ModelConfig,
    PretrainConfig,
    Section,
    SourceConfig,
    TrainConfig,
)
from cad.envs import evaluated_tasks, split_tasks, task_family
from cad.errors import CadError
from cad.evaluation.rollout import roll_out
from cad.experiments.estimate import Paces, Rate, pace_of, work_of
from cad.experiments.plan import Stage
from cad.histories.sampler import HistoryArrays, WindowSampler
from cad.interrupt import InterruptedRun, StopFlag
from cad.models import CompressedAD, EncoderPretraining, build_model
from cad.models.reconstruction import WithReconstruction
from cad.process import prepare_process
from cad.training.loop import train
from cad.training.objective import Objective
from cad.training.reconstruction import AuxiliaryObjective, PretrainingObjective, pretraining_config
from cad.training.regions import model_objective

log = logging.getLogger(__name__)

_SECTIONS: dict[str, type[Section]] = {
    "env": EnvConfig,
    "source": SourceConfig,
    "model": ModelConfig,
    "pretrain": PretrainConfig,
    "train": TrainConfig,
    "evaluation": EvaluationConfig,
}

# A measurement lasts this long, in seconds of work, and is cut short after these seconds on the wall.
_SECONDS, _PATIENCE = 0.3, 5.0


def measured_paces(root: Path, stages: Iterable[Stage], device_of: Callable[[Stage], str]) -> Paces:
    """The paces that ``stages`` need: of finished stages under ``root``, of whichever experiment.

    What those do not tell is measured here, the dearest stage first, which spares those of like size.
    A stage that this machine cannot run (its memory, say) stays unknown.
    """
    paces = Paces(finished_rates(root))
    for stage in sorted(stages, key=work_of, reverse=True):
        device = device_of(stage)
        if paces.seconds_a_step(stage, device) is None:
            log.info("measuring how long %s takes (a few seconds)", stage.name)
            try:
                paces.add(calibrate(stage, device))
            except (CadError, RuntimeError, MemoryError) as error:  # torch's, where memory is short
                log.warning("how long %s takes cannot be measured here: %s", stage.name, error)
    return paces


def finished_rates(root: Path) -> list[Rate]:
    """The paces of every finished stage under ``root``."""
    return [rate for done in sorted((root / "stages").glob("*/DONE")) if (rate := _finished_rate(done))]


def calibrate(stage: Stage, device: str) -> Rate:
    """Measure a stage by a moment of its own work, on made-up histories; one thread, as stages run."""
    prepare_process(1)
    used = device if device == "cpu" or torch.cuda.is_available() else "cpu"
    seconds = _CALIBRATE[stage.kind](stage, torch.device(used))
    # Where there is no GPU here, the CPU's pace stands in for it; the estimate says so.
    source = "calibration" if used == device else "calibration without a GPU"
    return Rate(pace_of(stage, device), work_of(stage), seconds, source)


def _finished_rate(done: Path) -> Rate | None:
    """The pace that a ``DONE`` marker tells of; None for one that does not, or of another version."""
    try:
        facts: dict[str, Any] = json.loads(done.read_text(encoding="utf-8"))
        identity = _identity(done.parent)
        data = dict(identity["config"])
        if identity["kind"] == "evaluate":
            data |= _identity(done.parent.with_name(identity["inputs"][0]))["config"]
        # Section by section: what is not recorded has its defaults, which need not fit the rest.
        sections = {name: kind.model_validate(data[name]) for name, kind in _SECTIONS.items() if name in data}
        stage = Stage(identity["kind"], Config().model_copy(update=sections))
        seconds = _seconds_in(facts, stage)
        return Rate(pace_of(stage, facts.get("device", "cpu")), work_of(stage), seconds, "finished")
    except (OSError, ValueError, KeyError, TypeError, ZeroDivisionError):
        return None


def _identity(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "stage.json").read_text(encoding="utf-8"))
    return found


def _seconds_in(facts: dict[str, Any], stage: Stage) -> float:
    config = stage.config
    if stage.kind == "histories":
        transitions = facts["collected"] * config.source.n_streams * config.source.steps_per_stream
        return float(facts["collect_seconds"] * facts["workers"] / transitions)
    if stage.kind == "evaluate":
        return float(config.n_evaluated * config.evaluation.n_rollouts / facts["steps_per_second"])
    return float(facts["train_seconds"] / facts["updates"])


def _histories(stage: Stage, _device: torch.device) -> float:
    # Here and not above: stable-baselines3 takes a while to import.
    from cad.histories.source import learn

    source, family = stage.config.source, task_family(stage.config.env)

    def took(iterations: int) -> float:
        begun = time.process_time()
        short = source.model_copy(update={"steps_per_stream": iterations * source.n_steps})
        learn(family, family.task_ids[0], short)
        return time.process_time() - begun

    took(1)
    # The last iteration of a collection has no update: what two more cost is two whole ones.
    return max(1e-9, took(3) - took(1)) / (2 * source.n_steps * source.n_streams)


def _pretrain(stage: Stage, device: torch.device) -> float:
    never = stage.config.pretrain.model_copy(update={"collapse_variance": 0.0})
    config = _harmless(pretraining_config(stage.config.model_copy(update={"pretrain": never})))
    sampler = WindowSampler(config, _made_up(config), segments=config.model.max_compression_depth)
    return _update_seconds(config, EncoderPretraining(config), sampler, PretrainingObjective(config), device)


def _train(stage: Stage, device: torch.device) -> float:
    config, settings = _harmless(stage.config), stage.config.train
    model = build_model(config)
    learner: nn.Module = model
    objective = model_objective(config)
    if isinstance(model, CompressedAD) and config.train.reconstruction_weight:
        learner, objective = WithReconstruction(model, config), AuxiliaryObjective(config)
    update = _update_seconds(config, learner, WindowSampler(config, _made_up(config)), objective, device)
    if not settings.validate_every:
        return update
    tasks = split_tasks(config.env).validation
    rollout = _roll_out_seconds(config, tasks, settings.validation_rollouts, device)
    times = -(-settings.n_updates // settings.validate_every)
    steps = times * settings.validation_episodes * config.env.steps_per_episode
    return update + steps * rollout / settings.n_updates


def _evaluate(stage: Stage, device: torch.device) -> float:
    config = stage.config
    return _roll_out_seconds(config, evaluated_tasks(config), config.evaluation.n_rollouts, device)


_CALIBRATE: dict[str, Callable[[Stage, torch.device], float]] = {
    "histories": _histories,
    "pretrain": _pretrain,
    "train": _train,
    "evaluate": _evaluate,
}


def _made_up(config: Config) -> HistoryArrays:
    rng, shape = np.random.default_rng(0), (2, 4, config.source.steps_per_stream)
    return HistoryArrays(
        rng.integers(0, config.env.size, (*shape, 2), dtype=np.uint8),
        rng.integers(0, N_ACTIONS, shape, dtype=np.uint8),
        rng.integers(0, 2, shape, dtype=np.uint8),
        config.env.steps_per_episode,
    )


def _harmless(config: Config) -> Config:
    """The same work an update; what is learned, of made-up histories, is of no interest and stops nothing."""
    harmless = {"n_updates": 1000, "log_every": 1, "checkpoint_every": 1000, "validate_every": 0,
                "watchdog_share": None, "learning_rate": 1e-6, "muon_learning_rate": 1e-6,
                "compile": False, "engine": "plain", "zero_stage": None}  # fmt: skip
    return config.model_copy(update={"train": config.train.model_copy(update=harmless)})


class _Stopwatch:
    """Asks for a stop when it has seen enough steps; the first one, which is slower, is not counted.

    On a CPU it counts this process's own time: others that keep the machine busy do not show.
    """

    def __init__(self, device: torch.device) -> None:
        self.stop = StopFlag()
        self._clock = time.process_time if device.type == "cpu" else time.perf_counter
        self._ticks: list[float] = []
        self._begun = time.perf_counter()

    def __call__(self, _done: int, _values: object = None) -> None:
        self._ticks.append(self._clock())
        measured = self._ticks[-1] - self._ticks[0]
        patience = time.perf_counter() - self._begun > _PATIENCE
        if (len(self._ticks) > 2 and measured > _SECONDS) or (len(self._ticks) > 1 and patience):
            self.stop.request()

    @property
    def seconds_a_step(self) -> float:
        return (self._ticks[-1] - self._ticks[0]) / (len(self._ticks) - 1)


def _update_seconds(
    config: Config, model: nn.Module, sampler: WindowSampler, objective: Objective, device: torch.device
) -> float:
    """Of one update in the real training loop, by a config that :func:`_harmless` made."""
    watch = _Stopwatch(device)
    with (
        tempfile.TemporaryDirectory(prefix="cad-calibration-") as folder,
        contextlib.suppress(InterruptedRun),
    ):
        train(
            config,
            model,
            sampler,
            Path(folder),
            run_id="calibration",
            device=device,
            stop=watch.stop,
            objective=objective,
            progress=watch,
        )
    return watch.seconds_a_step


def _roll_out_seconds(config: Config, tasks: Sequence[int], n_rollouts: int, device: torch.device) -> float:
    """Of one step of all roll-outs together, over as many as fill the window twice."""
    horizon, watch = config.env.steps_per_episode, _Stopwatch(device)
    filled = -(-2 * config.model.n_transit // horizon)
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
