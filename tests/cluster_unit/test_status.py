"""Where a stage stands, by its directory and by Slurm."""

from __future__ import annotations

import fcntl
import io
import json
import re
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from rich.console import Console

from cad.cluster.queue import LAUNCH_FAILED, QueuedJob, parse_sacct
from cad.cluster.retry import factor
from cad.cluster.status import StageStatus, stage_status, stage_statuses
from cad.cluster.table import CellStatus, exit_code, problems, status_table
from cad.errors import UsageError
from cad.experiments.plan.directory import StageDirectory
from cad.experiments.plan.job_records import JobNote

NOTE = JobNote("12_3", "cad-e-train", "e", "me", "e/jobs/1", 0.0, 1.0, 1.0)
JOB = QueuedJob("12_3", "RUNNING", "node1", "None", "cad-e-train")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "stages" / "train-0123456789ab"
    path.mkdir(parents=True)
    (tmp_path / "e/jobs/1").mkdir(parents=True)
    return path


def status(folder, note=NOTE, queue=None, ended=None):
    stage = StageDirectory(folder.parents[1], folder.name)
    return stage_status(stage, note, {} if queue is None else queue, ended or {})


def attempts(folder, *events):
    lines = "".join(f"{number} node2 {event}\n" for number, event in enumerate(events))
    (folder.parents[1] / "e/jobs/1/12_3.attempts").write_text(lines)


def test_running_with_progress_and_time_left(folder):
    now = time.time()
    note = {"done": 60, "total": 100, "time": now, "first_done": 40, "first_time": now - 10, "loss": 1.5}
    (folder / "progress.json").write_text(json.dumps(note))
    stands = status(folder, queue={"12_3": JOB})
    assert (stands.state, stands.node, stands.done_share) == ("running", "node1", 0.6)
    assert stands.seconds_left == pytest.approx(20)  # went on at 40: 20 steps in 10 s, 40 to go
    assert stands.latest == {"loss": 1.5}


def test_queued_wins_over_an_old_failure(folder):
    (folder / "FAILED").write_text('{"message": "before"}')
    waiting = replace(JOB, state="PENDING", node="", reason="Dependency")
    stands = status(folder, queue={"12_3": waiting})
    assert (stands.state, stands.reason) == ("queued", "Dependency")


PACKED = replace(NOTE, pack=("train-0123456789ab", "train-ba9876543210"))


def test_a_training_that_left_its_pack_has_failed_while_the_job_goes_on(folder):
    stands = status(folder, PACKED, {"12_3": JOB})
    assert (stands.state, stands.pack, stands.job_id) == ("running", 2, "12_3")
    (folder / "FAILED").write_text('{"message": "training diverged"}')
    for job in (JOB, replace(JOB, state="PENDING")):  # requeued, it is left out
        stands = status(folder, PACKED, {"12_3": job})
        assert (stands.state, stands.reason, stands.alive) == ("failed", "training diverged", False)
    # With more memory the job may try it again.
    (folder / "FAILED").write_text('{"message": "MemoryError: "}')
    assert status(folder, PACKED, {"12_3": JOB}).state == "running"


def test_a_note_of_an_earlier_version_is_of_a_job_of_one_stage(folder):
    note = asdict(NOTE)
    del note["pack"]
    (folder / "job.json").write_text(json.dumps(note))
    assert StageDirectory(folder.parents[1], folder.name).job() == NOTE


def test_failed_by_its_marker(folder):
    (folder / "FAILED").write_text('{"message": "training diverged"}')
    assert (status(folder).state, status(folder).reason) == ("failed", "training diverged")


@pytest.mark.parametrize(
    ("events", "words"),
    [
        ((), "before it started"),
        (("started",), "without reporting an error"),
        (("started", "saved", "started", "ended"), "cancelled"),
        (("started", "out-of-memory"), "out of memory"),
        (("started", "too-many-requeues"), "time limit"),
        (("started", "not-ready"), "a stage that it needs is not done"),
    ],
)
def test_dead_without_accounting(folder, events, words):
    attempts(folder, *events)
    stands = status(folder)
    assert stands.state == "dead" and words in stands.reason
    assert stands.out_of_memory == ("out-of-memory" in events)


def test_dead_with_accounting(folder):
    attempts(folder, "started")
    assert status(folder, ended={"12_3": "OUT_OF_MEMORY"}).out_of_memory
    assert status(folder, ended={"12_3": "TIMEOUT"}).timed_out


def test_another_cluster_s_job_of_the_same_number_is_not_ours(folder):
    assert status(folder, queue={"12_3": replace(JOB, name="wrap")}).state == "dead"


def test_without_slurm_the_directory_is_all_there_is(folder):
    assert stage_status(StageDirectory(folder.parents[1], folder.name), NOTE, None, {}).state == "unknown"
    (folder / "DONE").write_text("{}")
    assert stage_statuses(folder.parents[1], [folder.name])[folder.name].state == "done"


def test_a_local_run_is_seen_by_its_lock(folder):
    assert status(folder, note=None).state == "waiting"
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert status(folder, note=None).state == "running"


def test_a_note_that_cannot_be_read_is_no_note(folder):
    (folder / "job.json").write_text('{"from": "the future"}')
    assert StageDirectory(folder.parents[1], folder.name).job() is None


def test_table_points_to_the_log_that_matters(tmp_path):
    def stage(kind, state, log=None):
        return StageStatus(f"{kind}-1", kind, state, log=log and str(tmp_path / log))

    cells = (
        CellStatus(1, "a", 0, (stage("train", "running", "e/1.out"), stage("evaluate", "queued", "e/2.out"))),
        CellStatus(2, "b", 0, (stage("train", "failed", "e/3.out"), stage("evaluate", "dead", "e/4.out"))),
        CellStatus(3, "c", 0, (stage("train", "done"), stage("evaluate", "queued", "e/5.out"))),
    )
    console = Console(width=150, record=True, file=io.StringIO())
    console.print(status_table(cells, tmp_path))
    shown = console.export_text()
    assert re.findall(r"e/\d.out", shown) == ["e/1.out", "e/3.out"]
    assert "logs are under" in shown


def test_sacct_rows():
    assert parse_sacct("12_3|CANCELLED by 0\n13|TIMEOUT\n") == {"12_3": "CANCELLED", "13": "TIMEOUT"}


@pytest.mark.parametrize("text", ["2", "x", "x0", "x-1", "twice"])
def test_factors(text):
    assert factor("x1.5", "--mem") == 1.5
    with pytest.raises(UsageError, match="--mem"):
        factor(text, "--mem")


@pytest.mark.parametrize(
    ("states", "code"),
    [
        (["done", "done"], 0), (["done", "failed"], 1), (["running", "dead"], 1), (["done", "running"], 3),
        (["waiting", "queued"], 3),
    ],
)  # fmt: skip
def test_the_exit_code_tells_failed_from_unfinished_from_done(states, code):
    stages = tuple(StageStatus(f"train-{i}", "train", state) for i, state in enumerate(states))
    assert exit_code((CellStatus(1, "AD", 0, stages),)) == code


def test_a_task_that_a_node_could_not_start_is_told_with_how_to_release_it(folder):
    waiting = replace(JOB, state="PENDING", node="", reason=LAUNCH_FAILED)
    stands = status(folder, queue={"12_3": waiting})
    assert problems((CellStatus(1, "AD", 0, (stands,)),)) == [
        "held: 1 jobs; release them with: scontrol release 12"
    ]
    far = replace(stands, stage="train-0", cluster="far")
    assert "scontrol --clusters=far release 12" in problems((CellStatus(1, "AD", 0, (far,)),))[0]
