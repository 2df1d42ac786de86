"""Slurm's commands as they are run: what they may do wrong, and how long they are waited for."""

from __future__ import annotations

import os
import time

import pytest

from cad.cluster import command
from cad.cluster.command import run_command, run_once
from cad.cluster.queue import cancel_jobs
from cad.errors import CadError


@pytest.fixture
def program(tmp_path, monkeypatch):
    """``program(name, text)``: a command of a site's, which comes first on the path."""
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    def write(name, text):
        (tmp_path / name).write_text(f"#!/bin/bash\n{text}\n")
        (tmp_path / name).chmod(0o755)
        return tmp_path / f"{name}.calls"

    return write


@pytest.fixture
def impatient(monkeypatch):
    for name, seconds in (("_PATIENCE", 0.4), ("_OPTIONAL_PATIENCE", 0.4), ("_QUIET", 0.2)):
        monkeypatch.setattr(command, name, seconds)
    monkeypatch.setattr(command, "_LATEST_TRY", 0.6)
    monkeypatch.setattr(command, "_OPTIONAL_LATEST_TRY", 0.3)
    monkeypatch.setattr(command, "_PAUSES", (0.01,) * 6)
    monkeypatch.setattr(command, "_OPTIONAL_PAUSES", (0.01,) * 2)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(("name", "tries"), [("squeue", 2), ("sacct", 1)])
def test_a_command_that_never_answers_is_given_up(program, caplog, name, tries):
    calls = program(name, 'echo x >>"$0.calls"; sleep 60')
    with pytest.raises(CadError, match=f"{name} does not answer within 0.4 s"):
        run_command([name])
    assert len(calls.read_text().split()) == tries
    assert caplog.text.count(f"{name} has not answered yet") == tries


@pytest.mark.usefixtures("impatient")
def test_what_a_wrapper_started_ends_with_it(program, tmp_path):
    """Else an sbatch that was given up would be accepted in the end, beside the one that came after it."""
    program("sbatch", f"(sleep 1; touch {tmp_path}/accepted) & wait")
    assert run_once(["sbatch"]).returncode == 1
    time.sleep(1.2)
    assert not (tmp_path / "accepted").exists()


def test_output_that_is_no_answer_is_an_error(program, monkeypatch):
    monkeypatch.setattr(command, "_PAUSES", (0.0, 0.0))
    calls = program(
        "squeue", 'echo x >>"$0.calls"; [ $(wc -l <"$0.calls") -gt 2 ] && echo "|" || echo "a banner"'
    )
    assert run_command(["squeue"], is_answer=lambda said: "|" in said).stdout == "|\n"
    calls.unlink()
    monkeypatch.setattr(command, "_PAUSES", (0.0,))
    done = run_command(["squeue"], is_answer=lambda said: "|" in said)
    assert (done.returncode, done.stderr) == (1, "it says something else: a banner")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("echo 'scancel: error: Unable to contact slurm controller' >&2", "Unable to contact"),
        ("echo not today; exit 1", "not today"),
        ("exit 3", "exit code 3"),
    ],
)
def test_what_was_not_cancelled_is_an_error(program, monkeypatch, text, said):
    """A wrapper may hide the exit code."""
    monkeypatch.setattr(command, "_PAUSES", (0.0,))
    program("scancel", text)
    with pytest.raises(CadError, match=f"scancel failed: .*{said}"):
        cancel_jobs(["1"])
    program("scancel", "echo 'scancel: error: Invalid job id 1' >&2; exit 1")
    cancel_jobs(["1"])


def test_a_missing_command_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CadError, match="scontrol cannot be run"):
        run_command(["scontrol"])
