"""Figures drawn by two processes: those that one would draw, whatever happens to the others."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cad.errors import CadError
from cad.reports.questions.drawing_pool import draw_all


def by(name, seconds=0.05):
    """A stand-in for a figure: its name and the process that drew it."""

    def draw(study):
        time.sleep(seconds)
        return name, study, os.getpid()

    return draw


def test_two_processes_share_the_figures_and_keep_their_order():
    made = draw_all("study", [by(number) for number in range(12)])
    assert [drawing[:2] for drawing in made] == [(number, "study") for number in range(12)]
    assert len({drawing[2] for drawing in made}) == min(2, len(os.sched_getaffinity(0)))


def test_when_a_process_dies_this_one_draws():
    here = os.getpid()

    def dies(study):
        if os.getpid() != here:
            os._exit(9)
        return study

    assert draw_all("study", [dies] * 6) == ["study"] * 6


def test_an_error_keeps_its_type_and_message():
    def fails(_study):
        raise CadError("no such thing")

    with pytest.raises(CadError, match="no such thing"):
        draw_all("study", [by(0), fails, fails])


def test_workers_end_with_a_process_that_is_killed(tmp_path):
    code = """
import os, sys, time
from pathlib import Path
from cad.reports.questions.drawing_pool import draw_all
def hang(folder):
    (folder / str(os.getpid())).touch()
    time.sleep(600)
draw_all(Path(sys.argv[1]), [hang, hang])
"""
    parent = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)])
    wanted = min(2, len(os.sched_getaffinity(0)))
    while len(workers := list(tmp_path.iterdir())) < wanted and parent.poll() is None:
        time.sleep(0.1)
    assert len(workers) == wanted
    parent.kill()
    parent.wait()
    processes, deadline = [Path("/proc") / worker.name / "stat" for worker in workers], time.monotonic() + 60
    while any(map(runs, processes)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(map(runs, processes))


def runs(stat):
    """Whether a process is there and no zombie that nobody has waited for."""
    try:
        return stat.read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
