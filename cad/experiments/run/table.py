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
from cad.experiments.durations import clock_time, hours_in_words
from cad.experiments.plan.stage import expected_steps
from cad.experiments.run.runner import Run, Show, StageState

_STYLE = {"done": "green", "running": "cyan", "stopped": "yellow", "pruned": "yellow", "failed": "bold red",
          "blocked": "red", "waiting": "dim"}  # fmt: skip
_NARROW = 100  # columns of a terminal; with fewer the table has no bars and no metrics
_SECONDS_BETWEEN_LINES = 60.0


def run_table(run: Run, width: int) -> RenderableType:
    """One row a stage, for a terminal of ``width`` columns: name, state, progress, time and time left.

    A wide terminal has bars and the latest metrics too.
    """
    narrow = width < _NARROW
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("stage", ratio=1, overflow="fold")
    table.add_column("state", no_wrap=True)
    table.add_column("done" if narrow else "progress", no_wrap=True, justify="right" if narrow else "left")
    for heading in ("time", "left"):
        table.add_column(heading, no_wrap=True, justify="right")
    if not narrow:
        table.add_column("latest", style="dim")
    for name, entry in run.stages.items():
        state = Text(entry.state, style=_STYLE[entry.state])
        share, took, left, latest = _progress(entry)
        cells: list[RenderableType] = [took, left]
        if narrow:
            cells.insert(0, "" if share is None else f"{share:.0%}")
        else:
            cells = ["" if share is None else ProgressBar(1, share, width=16), *cells, latest]
        table.add_row(printable(stage_label(run, name)), state, *cells)
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


def used(run: Run) -> str:
    """What the stages that this run ran took, in the unit of estimates; empty where it ran none.

    What is done counts with its earlier attempts; what failed or was ended early with the time of this run.
    """
    hours: dict[str, float] = {}
    for entry in run.stages.values():
        if not entry.seconds:
            continue
        seconds = entry.seconds * entry.cores
        if entry.state == "done":
            record = entry.directory.record()
            seconds = record.get("wall_seconds", 0.0) * record.get("cores", 1)
        hours[entry.stage.kind] = hours.get(entry.stage.kind, 0.0) + seconds / 3600
    return hours_in_words(hours) if hours else ""


class ChangeLines:
    """Prints a line whenever a stage changes state, and once a minute a line a running stage."""

    def __init__(self, run: Run, console: Console, seconds_between: float = _SECONDS_BETWEEN_LINES) -> None:
        self._console = console
        self._between = seconds_between
        self._states = {name: entry.state for name, entry in run.stages.items()}
        self._told = time.monotonic()

    def __call__(self, run: Run) -> None:
        """Print the changes since the last call."""
        due = time.monotonic() - self._told >= self._between
        if due:
            self._told = time.monotonic()
        for name, entry in run.stages.items():
            if self._states[name] != entry.state:
                self._states[name] = entry.state
                took = f" ({clock_time(entry.seconds)})" if entry.state == "done" else ""
                why = f": {entry.message}" if entry.message else ""
                self._print(f"{entry.state}: {stage_label(run, name)}{took}{why}")
            elif due and entry.state == "running":
                share, took, left, latest = _progress(entry)
                parts = [f"{share or 0:.0%}", f"{took} so far", *([f"{left} left"] if left else [])]
                self._print(
                    f"running: {stage_label(run, name)}: {', '.join([*parts, *filter(None, [latest])])}"
                )

    def _print(self, text: str) -> None:
        # A message of several lines is one record too.
        line = " ".join(f"{time.strftime('%H:%M:%S')} {text}".split())
        self._console.print(printable(line), soft_wrap=True)


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


def _progress(entry: StageState) -> tuple[float | None, str, str, str]:
    """Share that is done (None before it runs), time taken, time left, latest metrics."""
    if entry.state not in ("running", "done"):
        return None, "", "", ""
    note, share = entry.directory.progress(), _share(entry)
    latest = ", ".join(
        f"{word} {note[key]:.3f}"
        for key, word in (("loss", "loss"), ("accuracy", "accuracy"), ("validation_return", "validation"))
        if key in note
    )
    if entry.state == "done":
        return 1.0, clock_time(entry.seconds) if entry.seconds else "before", "", latest
    elapsed = time.time() - entry.started
    # For a resumed stage, which starts above zero, this is too low at first.
    left = clock_time(elapsed / share * (1 - share)) if share > 0 else ""
    return share, clock_time(elapsed), left, latest
