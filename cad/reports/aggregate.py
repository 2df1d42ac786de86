"""Pure numbers: roll-outs are averaged first, then tasks, then seeds; nothing is dropped in silence.

A return is normalised by the optimum of its own task before anything is averaged over tasks.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from cad.config.schema import Config
from cad.errors import CadError
from cad.reports.results import CellResult, FloatArray, SourceCurve

LAST_EPISODES = 10
FEW_SEEDS = 3  # up to here single seeds are drawn: no test on three pairs can go below p = 0.25
RESAMPLES = 2000
BOOTSTRAP_SEED = 20221025


@dataclass(frozen=True)
class TaskScore:
    """One held-out task of one cell."""

    task_id: int
    goal: tuple[int, ...]
    optimum: float
    normalised_last10: float


@dataclass(frozen=True)
class CellSummary:
    """A cell with the numbers that the report states of it; all None unless it is done."""

    result: CellResult
    status: str
    normalised: FloatArray | None  # (tasks, rollouts, episodes), return / optimum of the task
    return_first_episode: float | None
    return_last10: float | None
    normalised_last10: float | None
    per_task: tuple[TaskScore, ...]
    compressions: float | None  # mean over tasks and roll-outs
    returns_sha256: str | None

    @property
    def done(self) -> bool:
        """Whether its numbers count."""
        return self.status == "done"


def _defect(cell: CellResult) -> str | None:
    """Why a cell that says it is done cannot be used; None if it can."""
    returns = cell.returns
    if returns is None:
        return "no returns stored"
    if returns.ndim != 3 or 0 in returns.shape:
        return f"returns have shape {returns.shape}, not (tasks, rollouts, episodes)"
    if not len(cell.task_ids) == len(cell.goals) == len(cell.optimal) == returns.shape[0]:
        return (
            f"returns of {returns.shape[0]} tasks, but {len(cell.task_ids)} task ids, "
            f"{len(cell.goals)} goals, {len(cell.optimal)} optima"
        )
    bad = np.argwhere(~np.isfinite(returns.astype(np.float64)))
    if len(bad):
        task, rollout, episode = (int(i) for i in bad[0])
        return (
            f"{len(bad)} returns are NaN or infinite; the first: task {cell.task_ids[task]}, "
            f"roll-out {rollout + 1}, episode {episode + 1}"
        )
    for task_id, optimum in zip(cell.task_ids, cell.optimal, strict=True):
        if not (math.isfinite(optimum) and optimum > 0):
            return f"the optimum of task {task_id} is {optimum}; returns cannot be normalised by it"
    return None


def last_episodes(n_episodes: int) -> int:
    """How many final episodes are averaged: ten, or all where there are fewer."""
    return min(LAST_EPISODES, n_episodes)


def summarise_cell(cell: CellResult) -> CellSummary:
    """Numbers of one cell; a done cell with unusable returns becomes a failed one."""
    status = cell.status
    if status == "done" and (defect := _defect(cell)) is not None:
        status = f"failed: {defect}"
    if status != "done" or cell.returns is None:
        return CellSummary(cell, status, None, None, None, None, (), None, None)
    returns = np.ascontiguousarray(cell.returns, dtype=np.float64)
    normalised = returns / np.asarray(cell.optimal, dtype=np.float64)[:, None, None]
    last = last_episodes(returns.shape[2])
    task_last = normalised[:, :, -last:].mean(axis=(1, 2))  # (tasks,)
    return CellSummary(
        result=cell,
        status=status,
        normalised=normalised,
        return_first_episode=float(returns[:, :, 0].mean(axis=1).mean()),
        return_last10=float(returns[:, :, -last:].mean(axis=(1, 2)).mean()),
        normalised_last10=float(task_last.mean()),
        per_task=tuple(
            TaskScore(task_id, goal, float(optimum), float(score))
            for task_id, goal, optimum, score in zip(
                cell.task_ids, cell.goals, cell.optimal, task_last, strict=True
            )
        ),
        compressions=None if cell.compressions is None else float(np.mean(cell.compressions)),
        returns_sha256=hashlib.sha256(returns.astype("<f8").tobytes()).hexdigest(),
    )


def bootstrap_interval(values: FloatArray, resample_seeds: bool) -> tuple[FloatArray, FloatArray]:
    """95% percentile interval of the mean of (seeds, tasks, rollouts, episodes) for each episode.

    Tasks are resampled jointly for all seeds (they are crossed), roll-outs within each task drawn,
    and seeds too if asked for.  Returns two arrays (episodes,).  Deterministic.
    """
    n_seeds, n_tasks, n_rollouts, n_episodes = values.shape
    rng = np.random.default_rng(BOOTSTRAP_SEED)
    task = rng.integers(n_tasks, size=(RESAMPLES, 1, n_tasks, 1))
    rollout = rng.integers(n_rollouts, size=(RESAMPLES, n_seeds, n_tasks, n_rollouts))
    seed = np.arange(n_seeds).reshape(1, n_seeds, 1, 1)
    if resample_seeds:
        seed = rng.integers(n_seeds, size=(RESAMPLES, n_seeds, 1, 1))
    size = n_seeds * n_tasks * n_rollouts
    index = (seed * n_tasks + task) * n_rollouts + rollout
    index = index + np.arange(RESAMPLES).reshape(-1, 1, 1, 1) * size
    counts = np.bincount(index.ravel(), minlength=RESAMPLES * size).reshape(RESAMPLES, size)
    # einsum, not @: a threaded BLAS may add in another order from run to run.
    means = np.einsum("br,re->be", counts / size, values.reshape(size, n_episodes))
    low, high = np.percentile(means, [2.5, 97.5], axis=0)
    return low, high


@dataclass(frozen=True)
class Group:
    """Cells that differ by their seed only: one line of the report."""

    label: str
    arm: str
    config: Config  # with seed 0
    cells: tuple[CellSummary, ...]

    @property
    def is_ad(self) -> bool:
        """Whether it is the uncompressed reference."""
        return self.config.model.kind == "ad"

    @property
    def depth(self) -> int | None:
        """Compression depth of training; None without latents."""
        model = self.config.model
        return model.max_compression_depth if model.has_latents else None

    @property
    def n_latent(self) -> int | None:
        """Latent tokens; None for models without."""
        return self.config.model.n_latent if self.config.model.has_latents else None

    @property
    def window(self) -> int:
        """Steps that the decoder sees uncompressed."""
        return self.config.model.uncompressed_steps

    @cached_property
    def done(self) -> tuple[CellSummary, ...]:
        """The cells that count."""
        return tuple(cell for cell in self.cells if cell.done)

    @cached_property
    def score(self) -> float | None:
        """Mean over the done seeds of normalised_last10; None where there is none."""
        scores = self.seed_scores
        return float(np.mean(scores)) if scores else None

    @property
    def seed_scores(self) -> list[float]:
        """normalised_last10 of each done seed."""
        return [cell.normalised_last10 for cell in self.done if cell.normalised_last10 is not None]

    @cached_property
    def normalised(self) -> FloatArray:
        """(seeds, tasks, rollouts, episodes) of the done cells, of which there must be one."""
        return np.stack([cell.normalised for cell in self.done if cell.normalised is not None])

    @cached_property
    def seed_curves(self) -> FloatArray:
        """(seeds, episodes): mean over roll-outs, then tasks."""
        curves: FloatArray = self.normalised.mean(axis=2).mean(axis=1)
        return curves

    @cached_property
    def curve(self) -> FloatArray:
        """(episodes,): mean over roll-outs, tasks, seeds."""
        curve: FloatArray = self.seed_curves.mean(axis=0)
        return curve

    @cached_property
    def band(self) -> tuple[FloatArray, FloatArray]:
        """95% interval of :attr:`curve`."""
        return bootstrap_interval(self.normalised, len(self.done) > FEW_SEEDS)

    @cached_property
    def score_interval(self) -> tuple[float, float]:
        """95% interval of :attr:`score`."""
        last = last_episodes(self.normalised.shape[3])
        values = self.normalised[..., -last:].mean(axis=3, keepdims=True)
        low, high = bootstrap_interval(values, len(self.done) > FEW_SEEDS)
        return float(low[0]), float(high[0])

    @cached_property
    def task_scores(self) -> tuple[TaskScore, ...]:
        """Per task, the mean over done seeds of normalised_last10."""
        by_seed = np.array([[task.normalised_last10 for task in cell.per_task] for cell in self.done])
        first = self.done[0].per_task
        return tuple(
            TaskScore(task.task_id, task.goal, task.optimum, float(value))
            for task, value in zip(first, by_seed.mean(axis=0), strict=True)
        )

    def mean(self, quantity: Callable[[CellResult], float | None]) -> float | None:
        """Mean of a cost over the done seeds that know it."""
        values = [value for cell in self.done if (value := quantity(cell.result)) is not None]
        return float(np.mean(values)) if values and all(map(math.isfinite, values)) else None


def _roster(cell: CellSummary) -> tuple[object, ...] | None:
    """What must be equal for two means to be comparable: the tasks and the number of episodes."""
    if cell.normalised is None:
        return None
    order = sorted(zip(cell.result.task_ids, cell.result.goals, cell.result.optimal, strict=True))
    return (cell.result.config.env.name, tuple(order), cell.normalised.shape[2])


def group_cells(cells: Sequence[CellSummary]) -> tuple[Group, ...]:
    """Cells by label and config (the seed aside), in order of appearance.

    Raises :class:`CadError` if one cell is given twice, which would count it twice.
    """
    members: dict[tuple[str, str, str], list[CellSummary]] = {}
    for cell in cells:
        result = cell.result
        shape = "" if cell.normalised is None else repr((cell.normalised.shape, result.task_ids))
        same = result.config.model_copy(update={"seed": 0}).model_dump_json()
        members.setdefault((result.label, same, shape), []).append(cell)
    for label, same, shape in list(members):
        # A missing seed stands beside its done siblings, whatever the shape of their returns.
        homes = [key for key in members if key[:2] == (label, same) and key[2]]
        if not shape and homes:
            members[homes[0]].extend(members.pop((label, same, shape)))
    for (label, _, _), group in members.items():
        seeds = [cell.result.config.seed for cell in group]
        if len(set(seeds)) != len(seeds):
            raise CadError(f"two results of cell {label!r} with the same seed; seeds: {sorted(seeds)}")
    return tuple(
        Group(
            label=label,
            arm=group[0].result.arm,
            config=group[0].result.config.model_copy(update={"seed": 0}),
            cells=tuple(sorted(group, key=lambda cell: cell.result.config.seed)),
        )
        for (label, _, _), group in members.items()
    )


@dataclass(frozen=True)
class Study:
    """Everything that figures and text are made from."""

    name: str
    title: str
    question: str
    cells: tuple[CellSummary, ...]
    groups: tuple[Group, ...]
    source: FloatArray | None  # (tasks, episodes), normalised; held-out tasks that are known
    n_rosters: int  # sets of tasks and episodes among the done cells; above 1 nothing is compared

    @cached_property
    def scored(self) -> tuple[Group, ...]:
        """Groups with at least one done seed."""
        return tuple(group for group in self.groups if group.score is not None)

    @property
    def comparable(self) -> bool:
        """Whether all done cells were measured on the same tasks and episodes."""
        return self.n_rosters == 1

    def best(self, ad: bool) -> Group | None:
        """Highest score among AD or the other models; None if none is done."""
        candidates = [group for group in self.scored if group.is_ad == ad]
        return max(candidates, key=lambda group: group.score or 0.0, default=None)

    @property
    def reference_config(self) -> Config | None:
        """Config of the first cell, for the words that all cells share."""
        return self.cells[0].result.config if self.cells else None


def make_study(
    name: str, title: str, question: str, results: Sequence[CellResult], source: SourceCurve | None
) -> Study:
    """Aggregate cells; raises :class:`CadError` on a cell given twice."""
    cells = tuple(summarise_cell(result) for result in results)
    optimum = {task.task_id: task.optimum for cell in cells for task in cell.per_task}
    normalised = None
    if source is not None:
        known = [i for i, task_id in enumerate(source.task_ids) if task_id in optimum]
        curve = np.asarray(source.returns, dtype=np.float64)[known]
        if known and np.isfinite(curve).all():
            normalised = curve / np.array([optimum[source.task_ids[i]] for i in known])[:, None]
    return Study(
        name=name,
        title=title or name,
        question=question,
        cells=cells,
        groups=group_cells(cells),
        source=normalised,
        n_rosters=len({roster for cell in cells if (roster := _roster(cell)) is not None}),
    )


@dataclass(frozen=True)
class Panel:
    """One depth x latents grid: groups that share everything else."""

    title: str
    spots: dict[tuple[int, int], Group]  # (depth, latents)

    @property
    def depths(self) -> list[int]:
        """Depths that occur, rising."""
        return sorted({depth for depth, _ in self.spots})

    @property
    def latents(self) -> list[int]:
        """Latent counts that occur, rising."""
        return sorted({n_latent for _, n_latent in self.spots})


def flatten(config: Config) -> dict[str, Any]:
    """Dotted keys and values of a config."""
    flat: dict[str, Any] = {}
    for key, value in config.model_dump(mode="json").items():
        if isinstance(value, dict):
            flat.update({f"{key}.{inner}": item for inner, item in value.items()})
        else:
            flat[key] = value
    return flat


def differing_keys(configs: Sequence[Config]) -> list[str]:
    """Dotted keys with more than one value among the configs, in the schema's order."""
    flats = [flatten(config) for config in configs]
    return [key for key in flats[0] if len({repr(flat[key]) for flat in flats}) > 1] if flats else []


def grid_panels(study: Study) -> list[Panel]:
    """Depth x latents grids; a second setting of one spot opens a further panel."""
    axes = ("model.max_compression_depth", "model.n_latent", "train.depth_weights")
    panels: list[tuple[tuple[str, str], Config, Panel]] = []
    for group in study.groups:
        if group.depth is None or group.n_latent is None:
            continue
        rest = repr([(key, value) for key, value in flatten(group.config).items() if key not in axes])
        spot = (group.depth, group.n_latent)
        for key, _, panel in panels:
            if key == (group.arm, rest) and spot not in panel.spots:
                panel.spots[spot] = group
                break
        else:
            panels.append(((group.arm, rest), group.config, Panel(group.arm, {spot: group})))
    differ = [key for key in differing_keys([config for _, config, _ in panels]) if key not in axes]
    return [
        Panel(", ".join([panel.title, *(f"{key}={flatten(config)[key]}" for key in differ)]), panel.spots)
        for _, config, panel in panels
    ]
