"""Figures drawn by two processes: those that one would draw, whatever happens to the other."""

from __future__ import annotations

import os
import time

import pytest

from cad.errors import CadError
from cad.reports import drawing_all
from cad.reports.drawing_all import draw_all


def by(name, seconds=0.05):
    """A stand-in for a figure: its name and the process that drew it."""

    def draw(study):
        time.sleep(seconds)
        return name, study, os.getpid()

    return draw


def test_two_processes_share_the_figures_and_keep_their_order():
    made = draw_all("study", [by(number) for number in range(12)])
    assert [drawing[:2] for drawing in made] == [(number, "study") for number in range(12)]
    processes = {drawing[2] for drawing in made}
    assert os.getpid() in processes
    assert len(processes) == min(2, len(os.sched_getaffinity(0)))


def test_what_the_other_process_loses_is_drawn_here():
    here = os.getpid()

    def dies(study):
        if os.getpid() != here:
            os._exit(9)
        time.sleep(0.05)
        return study

    assert draw_all("study", [dies] * 6) == ["study"] * 6


def test_one_that_never_ends_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(drawing_all, "_PATIENCE", 0.2)
    here = os.getpid()

    def hangs(study):
        time.sleep(0.05 if os.getpid() == here else 600)
        return study

    begun = time.monotonic()
    assert draw_all("study", [hangs] * 4) == ["study"] * 4
    assert time.monotonic() - begun < 30


def test_an_error_is_told_as_it_is():
    def fails(_study):
        raise CadError("no such thing")

    with pytest.raises(CadError, match="no such thing"):
        draw_all("study", [by(0), fails, fails])
