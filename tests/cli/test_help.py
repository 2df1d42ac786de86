"""What a newcomer sees first: the help, completion, the report in a browser, the table of a run."""

from __future__ import annotations

import io
import json
import re
import time
from pathlib import Path

import pytest
from forked import run_cli
from rich.console import Console

from cad.experiments.plan.cells import Cell
from cad.experiments.run.runner import Run
from cad.experiments.run.table import ChangeLines, run_table, used
from cad.schema import Config

FIRST = ["run", "open", "report", "doctor", "config"]
EXPERIMENT = "name: e\nbase: {env: {size: 3, horizon: 4, n_validation: 0}, train: {validate_every: 0}}\n"
EXPERIMENT += "arms: [{name: AD, set: {model.kind: ad}}]\n"


def test_help_begins_with_the_first_hour_and_has_a_line_a_command() -> None:
    alone, asked = run_cli([]), run_cli(["--help"], environment={"COLUMNS": "60"})
    assert (alone.returncode, alone.stderr) == (asked.returncode, asked.stderr) == (0, "")
    assert alone.stdout == asked.stdout
    first, *others = re.split(r"\n\n(?=\S)", asked.stdout.strip())[2:]
    assert first.splitlines()[0] == "The first hour"
    assert [line.split()[0] for line in first.splitlines()[1:]] == FIRST
    commands = [line for part in others[:-1] for line in part.splitlines()[1:]]
    assert len(commands) == 18 and all(re.match(r"  [a-z]", line) for line in commands)
    assert all(len(line.split()) > 4 for line in commands)
    assert "--show-completion" in others[-1]


def test_the_shell_completes_commands() -> None:
    asked = {"_CAD_COMPLETE": "complete_bash", "COMP_WORDS": "cad re", "COMP_CWORD": "1"}
    assert run_cli([], environment=asked).stdout.split() == ["report", "repair", "retry"]


def test_open_shows_the_report_to_the_browser_or_says_where_it_is(tmp_path: Path) -> None:
    (tmp_path / "e.yaml").write_text(EXPERIMENT)
    page = tmp_path / "elsewhere/e/report/report.html"
    nothing = run_cli(["open", "e.yaml", "--root", "elsewhere"], tmp_path)
    assert nothing.returncode == 1 and nothing.stderr == (
        f"error: {page}: there is no report yet; 'cad report e.yaml --root {tmp_path}/elsewhere' writes it\n"
    )
    page.parent.mkdir(parents=True)
    page.write_text("<p>")
    browser = tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\nprintf %s "$1" >{tmp_path}/shown\n')
    browser.chmod(0o755)
    words = ["open", "e.yaml", "--root", "elsewhere"]
    done = run_cli(words, tmp_path, environment={"BROWSER": str(browser)})
    assert (done.returncode, done.stdout) == (0, f"report: {page}\n")
    assert (tmp_path / "shown").read_text() == page.as_uri()
    none = run_cli(words, tmp_path, environment={"BROWSER": "", "DISPLAY": "", "PATH": str(tmp_path)})
    assert none.returncode == 0 and none.stdout.startswith(f"report: {page}\nthere is no browser here")


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run whose histories are done, and whose training is at 3 of 4 after a minute."""
    run = Run(tmp_path, (Cell("CompressedAD", "CompressedAD, depth 7, 4 latents", Config()),))
    collected, trained, _ = run.stages.values()
    for entry in (collected, trained):
        entry.directory.path.mkdir(parents=True)
    collected.directory.finish({"wall_seconds": 1800.0, "cores": 2})
    collected.state, collected.seconds = "done", 1800.0
    trained.state, trained.started = "running", time.time() - 60
    note = {"done": 3, "total": 4, "loss": 0.4}
    (trained.directory.path / "progress.json").write_text(json.dumps(note))
    return run


@pytest.mark.parametrize("width", [60, 120])
def test_the_table_of_a_run_can_be_read(run: Run, width: int) -> None:
    console = Console(file=io.StringIO(), width=width)
    console.print(run_table(run, width))
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert max(map(len, lines)) <= width
    row = next(line for line in lines if "running" in line)
    assert "train: CompressedAD" in row and "1:00" in row and "0:20" in row
    assert ("75%" in row) == (width == 60) and ("loss 0.400" in row) == (width == 120)
    assert not any("…" in line for line in lines)


def test_a_log_has_a_line_a_change_and_now_and_then_a_line_a_running_stage(run: Run) -> None:
    console = Console(file=io.StringIO(), width=100_000)
    lines = ChangeLines(run, console, seconds_between=0)
    lines(run)
    evaluation = list(run.stages.values())[2]
    evaluation.state, evaluation.message = "failed", "of two\nlines"
    lines(run)
    told = [line.partition(" ")[2] for line in console.file.getvalue().splitlines()]  # type: ignore[attr-defined]
    running = (
        "running: train: CompressedAD, depth 7, 4 latents, seed 0: 75%, 1:00 so far, 0:20 left, loss 0.400"
    )
    assert told == [
        running,
        running,
        "failed: evaluate: CompressedAD, depth 7, 4 latents, seed 0: of two lines",
    ]


def test_what_a_run_used_is_in_core_hours_by_kind(run: Run) -> None:
    assert used(run) == "1 core-hours (histories 1)"
