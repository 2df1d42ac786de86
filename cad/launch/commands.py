"""What the commands on a submitted experiment do: table, log, cancel, retry."""

from __future__ import annotations

import json
import os
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from cad.config import from_mapping
from cad.errors import CadError, UsageError
from cad.experiments.opened import OpenExperiment
from cad.experiments.plan import Cell, distinct_stages
from cad.launch.profile import Profile
from cad.launch.queue import cancel_jobs
from cad.launch.records import read_note
from cad.launch.status import StageStatus, stage_statuses
from cad.storage import read_json

_STYLE = {
    "done": "green",
    "running": "cyan",
    "queued": "blue",
    "failed": "bold red",
    "dead": "red",
    "unknown": "yellow",
    "waiting": "dim",
}


@dataclass(frozen=True)
class CellStatus:
    """Where a cell's stages stand; cells are numbered from 1 in the experiment's order."""

    number: int
    label: str
    seed: int
    stages: tuple[StageStatus, ...]


def cell_statuses(experiment: OpenExperiment) -> tuple[CellStatus, ...]:
    """Where every cell stands.  Raises :class:`CadError` when Slurm is there and does not answer."""
    names = [stage.name for stage in distinct_stages(experiment.cells)]
    found = stage_statuses(experiment.root, names)
    return tuple(
        CellStatus(number, cell.label, cell.config.seed, tuple(found[stage.name] for stage in cell.stages))
        for number, cell in enumerate(experiment.cells, start=1)
    )


def as_json(cells: tuple[CellStatus, ...]) -> str:
    """All that is known, for programs."""
    return json.dumps([asdict(cell) for cell in cells], indent=2, allow_nan=False)


def status_table(cells: tuple[CellStatus, ...], root: Path) -> Table:
    """One row a cell, one column a kind of stage, and the log of what runs, failed or died first."""
    kinds = list(dict.fromkeys(stage.kind for cell in cells for stage in cell.stages))
    table = Table(
        box=box.SIMPLE_HEAD, pad_edge=False, caption=f"logs are under {root}", caption_justify="left"
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
    """A line for every stage that failed or died, with its log."""
    stages = {stage.stage: stage for cell in cells for stage in cell.stages}
    return [
        f"{stage.stage} {stage.state}: {stage.reason}" + (f" ({stage.log})" if stage.log else "")
        for stage in stages.values()
        if stage.state in ("failed", "dead", "unknown")
    ]


def _in_words(stage: StageStatus) -> Text:
    words: list[str] = [stage.state]
    if stage.state == "running" and stage.done_share is not None:
        words.append(f"{stage.done_share:.0%}")
    if stage.seconds_left is not None:
        words.append(f"{_duration(stage.seconds_left)} left")
    if stage.alive and stage.job_id:
        words.append(f"job {stage.job_id}")
    if stage.node and stage.state == "running":
        words.append(f"on {stage.node}")
    if stage.state == "queued" and stage.reason:
        words.append(f"({stage.reason})")
    return Text(" ".join(words), style=_STYLE[stage.state])


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def log_of(experiment: OpenExperiment, number: int, kind: str | None) -> Path:
    """The log of a cell's stage: of the given kind, else of its latest stage that has one.

    Raises :class:`CadError` when there is none yet.
    """
    cell = pick_cell(experiment, number)
    if kind is not None and kind not in [stage.kind for stage in cell.stages]:
        raise UsageError(f"--stage {kind}: a cell has {', '.join(stage.kind for stage in cell.stages)}")
    for stage in reversed(cell.stages):
        note = read_note(experiment.root / "stages" / stage.name)
        if kind in (None, stage.kind) and note is not None and note.log(experiment.root).exists():
            return note.log(experiment.root)
    raise CadError(f"cell {number} ({cell.label}, seed {cell.config.seed}) has no log of a Slurm job yet")


def follow(path: Path) -> None:
    """Show a log as it grows; never returns."""
    os.execvp("tail", ["tail", "--lines=+1", "--follow=name", str(path)])


def cancel(experiment: OpenExperiment, numbers: list[int]) -> tuple[list[str], list[str]]:
    """Cancel the queued and running jobs of some cells, or of all.

    Returns the ids of the cancelled jobs, and those left alone since another experiment submitted
    them, or since cells that are not cancelled need them.
    """
    chosen = [pick_cell(experiment, number) for number in numbers] or list(experiment.cells)
    others = [cell for cell in experiment.cells if cell not in chosen]
    shared = {stage.name for stage in distinct_stages(tuple(others))}
    stages = [stage.name for stage in distinct_stages(tuple(chosen))]
    own: list[str] = []
    foreign: list[str] = []
    for name, status in stage_statuses(experiment.root, stages).items():
        note = read_note(experiment.root / "stages" / name)
        if status.alive and status.job_id and note is not None:
            mine = note.experiment == experiment.config.name and name not in shared
            (own if mine else foreign).append(status.job_id)
    cancel_jobs(own)
    return own, foreign


def cell_numbers(words: list[str]) -> list[int]:
    """Words as numbers of cells.  Raises :class:`UsageError` for one that is none."""
    wrong = [word for word in words if not word.isdecimal()]
    if wrong:
        raise UsageError(f"{wrong[0]!r} is neither the number of a cell nor an override (KEY=VALUE)")
    return [int(word) for word in words]


def pick_cell(experiment: OpenExperiment, number: int) -> Cell:
    """A cell by its number in the table; :class:`UsageError` when there is none."""
    if not 1 <= number <= len(experiment.cells):
        raise UsageError(
            f"there is no cell {number}; {experiment.file} has cells 1 to {len(experiment.cells)}"
        )
    return experiment.cells[number - 1]


def last_profile(experiment: OpenExperiment) -> Profile:
    """The profile that the experiment was last submitted with.  Raises :class:`CadError` if never."""
    found = sorted((experiment.folder / "jobs").glob("*-slurm/submission.json"))
    if not found:
        raise CadError(f"{experiment.config.name} was never submitted; use `cad submit` with a --profile")
    data: Any = read_json(found[-1])
    return from_mapping(Profile, data["profile"], str(found[-1]))


def factor(text: str, option: str) -> float:
    """``x2`` as 2.0.  Raises :class:`UsageError` otherwise."""
    if not re.fullmatch(r"x\d+(\.\d+)?", text) or not float(text[1:]):
        raise UsageError(f"{option} {text}: expected a factor such as x2 or x1.5")
    return float(text[1:])
