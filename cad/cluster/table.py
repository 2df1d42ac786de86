"""The table of ``cad status``: one row a cell, one column a kind of stage."""

from __future__ import annotations

import json
import typing
from dataclasses import dataclass, replace
from pathlib import Path

from rich import box
from rich.table import Table
from rich.text import Text

from cad.cluster.queue import LAUNCH_FAILED
from cad.cluster.status import StageStatus, jobs_by_cluster, stage_statuses
from cad.errors import UsageError, printable
from cad.experiments.durations import clock_time
from cad.experiments.plan.cells import Cell, distinct_stages
from cad.experiments.plan.experiment import Experiment
from cad.experiments.plan.stage import StageKind

_STYLE = {
    "done": "green",
    "running": "cyan",
    "queued": "blue",
    "failed": "bold red",
    "dead": "red",
    "pruned": "yellow",
    "unknown": "yellow",
    "waiting": "dim",
}
_KINDS = typing.get_args(StageKind)
_BEHIND = "behind"
# The last one: a node's daemon died while it started the task, and Slurm waits for a person.
_HELD = ("JobHeldUser", "JobHeldAdmin", LAUNCH_FAILED)
# So many stages with the same fault get one line.
_MANY = 5


@dataclass(frozen=True)
class CellStatus:
    """Where a cell's stages stand; cells are numbered from 1 in the experiment's order."""

    number: int
    label: str
    seed: int
    stages: tuple[StageStatus, ...]


def cell_statuses(experiment: Experiment) -> tuple[CellStatus, ...]:
    """Where every cell stands.  Raises :class:`CadError` when Slurm is there and does not answer."""
    names = [stage.name for stage in distinct_stages(experiment.cells)]
    statuses = stage_statuses(experiment.root, names)
    for stage in distinct_stages(experiment.cells):
        if statuses[stage.name].state == "pruned" and experiment.config.prune is None:
            # Another experiment ended it, or this one before its rule was taken out: it goes on.
            statuses[stage.name] = replace(statuses[stage.name], state="waiting")
        statuses[stage.name] = _behind(statuses[stage.name], [statuses[one.name] for one in stage.inputs])
    return tuple(
        CellStatus(number, cell.label, cell.config.seed, tuple(statuses[stage.name] for stage in cell.stages))
        for number, cell in enumerate(experiment.cells, start=1)
    )


def _behind(status: StageStatus, inputs: list[StageStatus]) -> StageStatus:
    """The status of a stage that never started, with the stage that is the reason."""
    pruned = next((one for one in inputs if one.state == "pruned"), None)
    if pruned is not None and status.state in ("dead", "waiting"):
        return replace(status, state="pruned", reason=f"{_BEHIND} {pruned.state} {pruned.stage}")
    if status.state != "dead":
        return status
    cause = next((one for one in inputs if one.state in ("failed", "dead")), None)
    return status if cause is None else replace(status, reason=f"{_BEHIND} {cause.state} {cause.stage}")


def exit_code(cells: tuple[CellStatus, ...]) -> int:
    """0: all stages are done or pruned; 1: some failed or died; 3: none did, and some are still to come."""
    states = {stage.state for cell in cells for stage in cell.stages}
    if states & {"failed", "dead"}:
        return 1
    return 0 if states <= {"done", "pruned"} else 3


def pick_cell(experiment: Experiment, number: int) -> Cell:
    """A cell by its number in the table; :class:`UsageError` for any other number."""
    if not 1 <= number <= len(experiment.cells):
        raise UsageError(
            f"there is no cell {number}; {experiment.file} has cells 1 to {len(experiment.cells)}"
        )
    return experiment.cells[number - 1]


def as_json(cells: tuple[CellStatus, ...]) -> str:
    """The whole table as JSON, for programs: a cell a line."""
    # Not asdict() and indent, which take half of the time that a table of 1,000 cells takes.
    lines = [
        json.dumps({**vars(cell), "stages": [vars(stage) for stage in cell.stages]}, allow_nan=False)
        for cell in cells
    ]
    return "[\n" + ",\n".join(lines) + "\n]"


def status_table(cells: tuple[CellStatus, ...], root: Path) -> Table:
    """The table; of each cell it shows the log of the first stage that runs, failed or died."""
    kinds = sorted({stage.kind for cell in cells for stage in cell.stages}, key=_KINDS.index)
    table = Table(
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        caption=f"logs are under {printable(root)}",
        caption_justify="left",
    )
    table.add_column("cell", justify="right")
    table.add_column("", ratio=1)
    for kind in kinds:
        table.add_column(kind)
    table.add_column("latest", style="dim")
    table.add_column("log", style="dim", overflow="fold")
    for cell in cells:
        by_kind = {stage.kind: stage for stage in cell.stages}
        latest = {key: value for stage in cell.stages for key, value in stage.latest.items()}
        logs = [
            str(Path(stage.log).relative_to(root))
            for stage in cell.stages
            if stage.log and stage.state != "queued"
        ]
        table.add_row(
            str(cell.number),
            f"{cell.label}, seed {cell.seed}",
            *(_in_words(by_kind[kind]) if kind in by_kind else "" for kind in kinds),
            ", ".join(f"{key.replace('_', ' ')} {value:.3f}" for key, value in latest.items()),
            logs[0] if logs else "",
        )
    return table


def problems(cells: tuple[CellStatus, ...]) -> list[str]:
    """A line for every stage that failed or died, with its log; one for many with the same fault.

    Stages behind these are left out, and held jobs are named with how to release them.
    """
    stages = {stage.stage: stage for cell in cells for stage in cell.stages}
    faults: dict[tuple[str, str], list[StageStatus]] = {}
    for stage in stages.values():
        if stage.state in ("failed", "dead", "unknown", "pruned") and not stage.reason.startswith(
            f"{_BEHIND} "
        ):
            faults.setdefault((stage.state, stage.reason), []).append(stage)
    lines = []
    for (state, reason), members in faults.items():
        if len(members) > _MANY:
            lines.append(f"{len(members)} stages {state}, {members[0].stage} the first of them: {reason}")
            continue
        lines += [
            f"{stage.stage} {state}: {reason}" + (f" ({stage.log})" if stage.log else "") for stage in members
        ]
    held = jobs_by_cluster(stage for stage in stages.values() if stage.reason in _HELD)
    for cluster, jobs in held.items():
        whole = sorted({job.partition("_")[0] for job in jobs}, key=int)
        command = f"scontrol {f'--clusters={cluster} ' if cluster else ''}release {' '.join(whole)}"
        lines.append(f"held: {len(jobs)} jobs; release them with: {command}")
    return lines


def _in_words(stage: StageStatus) -> Text:
    words: list[str] = [stage.state]
    if stage.state == "running" and stage.done_share is not None:
        words.append(f"{stage.done_share:.0%}")
    if stage.seconds_left is not None:
        words.append(f"{clock_time(stage.seconds_left)} left")
    if stage.alive and stage.job_id:
        words.append(f"job {stage.job_id}{f' (pack of {stage.pack})' if stage.pack > 1 else ''}")
    if stage.node and stage.state == "running":
        words.append(f"on {stage.node}")
    if stage.avoids:
        words.append(f"(avoids {', '.join(stage.avoids)})")
    if stage.state == "queued" and stage.reason:
        words.append(f"({stage.reason})")
    return Text(" ".join(words), style=_STYLE[stage.state])
