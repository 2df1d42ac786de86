"""Show the state of a running experiment: a live table on a terminal, lines in a log file."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

from rich import box
from rich.console import Console, Group, RenderableType
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from cad.errors import printable
from cad.experiments.durations import clock_time
from cad.experiments.plan.stage import expected_steps
from cad.experiments.run.runner import Run, Show, StageState

_STYLE = {"done": "green", "running": "cyan", "stopped": "yellow", "pruned": "yellow", "failed": "bold red",
          "blocked": "red", "waiting": "dim"}  # fmt: skip


def run_table(run: Run) -> RenderableType:
    """One row a stage: its name, state, progress, time and time left, latest metrics."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("stage", ratio=1)
    for heading in ("state", "progress", "time", "left"):
        table.add_column(heading, no_wrap=True)
    table.add_column("latest", style="dim")
    for name, entry in run.stages.items():
        state = Text(entry.state, style=_STYLE[entry.state])
        table.add_row(stage_label(run, name), state, *_progress(entry))
    problems = [
        Text(f"{entry.stage.name}: {_outcome(entry)}", style=_STYLE[entry.state])
        for entry in run.stages.values()
        if entry.state in ("failed", "stopped") or (entry.state == "pruned" and entry.stage.kind == "train")
    ]
    return Group(table, *problems)


def stage_label(run: Run, name: str) -> str:
    """A stage in words."""
    cell = next(cell for cell in run.cells if any(stage.name == name for stage in cell.stages))
    kind = run.stages[name].stage.kind
    if kind == "histories":
        return "histories"
    if cell.warm_start is not None and cell.warm_start.name == name:
        return f"AD that starts {cell.label}, seed {cell.config.seed}" if cell.label else "train: AD"
    if kind == "pretrain":
        return f"encoder of {cell.label}, seed {cell.config.seed}" if cell.label else kind
    return f"{kind}: {cell.label}, seed {cell.config.seed}" if cell.label else kind


def _outcome(entry: StageState) -> str:
    return f"stopped, {entry.message}" if entry.state == "stopped" else entry.message


class ChangeLines:
    """Prints a line whenever a stage changes state."""

    def __init__(self, run: Run, console: Console) -> None:
        self._console = console
        self._states = {name: entry.state for name, entry in run.stages.items()}

    def __call__(self, run: Run) -> None:
        """Print the changes since the last call."""
        for name, entry in run.stages.items():
            if self._states[name] != entry.state:
                self._states[name] = entry.state
                took = f" ({clock_time(entry.seconds)})" if entry.state == "done" else ""
                why = f": {entry.message}" if entry.message else ""
                text = f"{time.strftime('%H:%M:%S')} {entry.state}: {stage_label(run, name)}{took}{why}"
                self._console.print(printable(text, keep="\n\t"), soft_wrap=True)


@contextlib.contextmanager
def progress_bar(run: Run, console: Console) -> Iterator[Show]:
    """Yield a function that shows how much of a run is done as one bar, in a notebook too."""
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TimeRemainingColumn())
    total = sum(expected_steps(entry.stage) for entry in run.stages.values())
    with Progress(*columns, console=console, auto_refresh=False) as progress:
        bar = progress.add_task("", total=total)

        def show(run: Run) -> None:
            entries = run.stages.items()
            running = [stage_label(run, name) for name, entry in entries if entry.state == "running"]
            done = sum(_share(entry) * expected_steps(entry.stage) for _, entry in entries)
            progress.update(bar, completed=done, description=printable("; ".join(running), 80), refresh=True)

        yield show


def _share(entry: StageState) -> float:
    """How much of a stage is done, from 0 to 1."""
    if entry.state == "done":
        return 1.0
    if entry.state != "running":
        return 0.0
    note = entry.directory.progress()
    return min(1.0, float(note.get("done", 0.0)) / max(float(note.get("total", 1.0)), 1.0))


def _progress(entry: StageState) -> tuple[RenderableType, str, str, str]:
    if entry.state not in ("running", "done"):
        return "", "", "", ""
    note, share = entry.directory.progress(), _share(entry)
    latest = ", ".join(
        f"{word} {note[key]:.3f}"
        for key, word in (("loss", "loss"), ("accuracy", "accuracy"), ("validation_return", "validation"))
        if key in note
    )
    if entry.state == "done":
        return (
            ProgressBar(1, 1, width=16),
            clock_time(entry.seconds) if entry.seconds else "before",
            "",
            latest,
        )
    elapsed = time.time() - entry.started
    # For a resumed stage, which starts above zero, this is too low at first.
    left = clock_time(elapsed / share * (1 - share)) if share > 0 else ""
    return ProgressBar(1, share, width=16), clock_time(elapsed), left, latest
