"""Slurm's commands, asked through stand-ins on the path that misbehave as real ones do."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from submitit.core.utils import DelayedSubmission

from cad.cluster import commands
from cad.cluster.commands import SlurmBusyError, run_command
from cad.cluster.queue import queued_jobs
from cad.cluster.sbatch import submit_script
from cad.errors import CadError

BUSY = 'echo "slurm_load_jobs error: Unable to contact slurm controller (connect failure)" >&2; exit 1'


@pytest.fixture
def command(tmp_path, monkeypatch):
    """``command(name, text)``: a shell script on the path; each may use ``$calls``, a file of its own."""
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    for module in ("cad.cluster.commands", "cad.cluster.sbatch"):
        monkeypatch.setattr(f"{module}.PAUSES", (0.0, 0.0, 0.0))

    def write(name: str, text: str) -> Path:
        file, calls = tmp_path / name, tmp_path / f"{name}.calls"
        file.write_text(f'#!/bin/bash\ncalls={calls}\necho "$@" >>$calls\n{text}\n')
        file.chmod(0o755)
        return calls

    return write


def test_nothing_around_us_reaches_slurm_but_which_cluster(command, monkeypatch, caplog):
    foreign = {
        "SBATCH_PARTITION": "urgent",
        "SQUEUE_STATES": "RUNNING",
        "SLURM_MEM_PER_CPU": "1",
        "SLURM_JOB_ID": "7",
    }
    for name, value in {**foreign, "SLURM_CONF": "/c", "SLURM_CLUSTERS": "x", "HOME": "/h"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(commands, "_told", set())
    command("squeue", "env")
    seen = dict(line.split("=", 1) for line in run_command(["squeue"]).stdout.splitlines() if "=" in line)
    assert not foreign.keys() & seen.keys()
    assert (seen["SLURM_CONF"], seen["SLURM_CLUSTERS"], seen["HOME"]) == ("/c", "x", "/h")
    run_command(["squeue"])
    assert [record.message for record in caplog.records] == [
        "not passed on to Slurm, the profile decides: SBATCH_PARTITION, SQUEUE_STATES",
        "not passed on to Slurm: SLURM_* of the job that this runs in",
    ]


def test_a_busy_controller_is_asked_again(command, caplog):
    calls = command("squeue", f'[ $(wc -l <$calls) -lt 3 ] && {{ {BUSY}; }}; echo "12|RUNNING|n1|None|x"')
    assert queued_jobs(["12"])["12"].state == "RUNNING"
    assert len(calls.read_text().splitlines()) == 3
    assert caplog.text.count("Unable to contact slurm controller") == 2


def test_a_controller_that_stays_away_is_an_error_in_the_end(command):
    calls = command("squeue", BUSY)
    with pytest.raises(SlurmBusyError, match=r"squeue does not answer: .*Unable to contact"):
        queued_jobs(["12"])
    assert len(calls.read_text().splitlines()) == 4


def submitted(folder: Path, n: int = 2) -> str:
    return submit_script("#!/bin/bash\n", folder, [DelayedSubmission(print)] * n, "mark-0", "theirs")


def test_the_number_of_a_job_is_the_answer_and_not_what_a_site_prints(command, tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    command("sbatch", 'echo "Dear user, your last job 4711 used 3%"; echo "31;main"; echo')
    assert submitted(folder) == "31"
    assert sorted(file.name for file in folder.iterdir()) == [
        "31_0_submitted.pkl", "31_1_submitted.pkl", "31_submission.sh",
    ]  # fmt: skip
    assert submitted(folder, 1) == "31" and (folder / "31_submitted.pkl").exists()
    command("sbatch", 'echo "Submitted batch job 32"')  # without --parsable's answer, the queue knows
    calls = command("squeue", 'echo "31 other-mark"; echo "32 theirs mark-0"')
    assert submitted(folder) == "32"
    assert "--me" in calls.read_text()


def test_a_job_whose_answer_was_lost_is_found_and_not_submitted_twice(command, tmp_path):
    calls = command(
        "sbatch", 'echo "sbatch: error: Batch job submission failed: Socket timed out" >&2; exit 1'
    )
    command("squeue", 'echo "33 theirs mark-0"')
    assert submitted(tmp_path) == "33"
    assert len(calls.read_text().splitlines()) == 1
    command("squeue", "true")  # not accepted either
    command("sbatch", f"[ $(wc -l <$calls) -lt 3 ] && {{ {BUSY}; }}; echo 34")
    calls.unlink()
    assert submitted(tmp_path) == "34"
    assert len(calls.read_text().splitlines()) == 3


def test_a_refusal_is_final_and_told_once(command, tmp_path):
    calls = command("sbatch", 'echo "sbatch: error: invalid partition specified: x" >&2; exit 1')
    with pytest.raises(CadError, match=r"^sbatch: error: invalid partition specified: x$"):
        submitted(tmp_path)
    assert len(calls.read_text().splitlines()) == 1
