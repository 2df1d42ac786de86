"""What stages used: from their own records, and from Slurm's accounting."""

from __future__ import annotations

from pathlib import Path

import pytest

from cad.cluster.usage import parse_usage, usage
from cad.experiments.plan.directory import StageDirectory
from cad.experiments.plan.job_records import JobNote, SubmissionRecord, write_submission

# Two attempts of a task: steps have the memory, the job the time.  What is not over tells nothing.
SACCT = """\
12_3|60|01:30.500|2||REQUEUED
12_3.batch|60|00:00.500|2|2048K|CANCELLED
12_3.0|60|01:30.000|2|1536M|CANCELLED
12_3|30|30.000|2||COMPLETED
12_3.0|30|30.000|2|512M|COMPLETED
13|0|00:00:00|0||CANCELLED by 0
14|90000|1-02:03:04|4||TIMEOUT
15|60|01:00|1||REQUEUED
15|3|00:00|1||RUNNING
16_[0-3%2]|0|00:00:00|0||PENDING
"""


def test_accounting_sums_attempts_and_takes_the_largest_step() -> None:
    used = parse_usage(SACCT)
    task = used["12_3"]
    assert (task.seconds, task.cpu_seconds, task.cores) == (90, 120.5, 2)
    assert task.peak_bytes == 1.5 * 2**30
    assert set(used) == {"12_3", "14"}
    assert used["14"].cpu_seconds == 93784 and used["14"].peak_bytes is None


def test_rows_of_accounting_that_are_not_as_expected_are_left_out() -> None:
    odd = (
        "JobID|ElapsedRaw|TotalCPU|Cores|MaxRSS|State\n17|60|INVALID|2||FAILED\n12_3.1|1|00:01|2|a?|FAILED\n"
    )
    assert parse_usage(odd + SACCT) == parse_usage(SACCT)


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    """Two trainings that are done, submitted with a profile."""
    profile = {"resources": {"minutes": 60, "memory_gb": 8}, "stages": {"train": {"minutes": 30}}}
    write_submission(
        tmp_path / "e/jobs/1", SubmissionRecord("e.yaml", (), "cad", profile, "0", False, "me", None)
    )
    for number, (seconds, cpu, gib) in enumerate(((100, 90, 0.7), (200, 180, 1.1))):
        stage = StageDirectory(tmp_path, f"train-00000000000{number}")
        stage.path.mkdir(parents=True)
        stage.finish(
            {"wall_seconds": seconds, "cpu_seconds": cpu, "cores": 1, "peak_memory_bytes": int(gib * 2**30)}
        )
        stage.note_job(JobNote(f"12_{number}", "cad-e-train", "e", "me", "e/jobs/1", 0.0, 1.0, 1.0))
    return tmp_path


def test_the_stages_own_records_say_what_would_do(finished: Path) -> None:
    (row,) = usage(finished, ["train-000000000000", "train-000000000001", "evaluate-000000000000"])
    assert (row.kind, row.n, row.seconds, row.asked_minutes, row.asked_gb) == ("train", 2, 200, 30, 8)
    assert row.efficiency == pytest.approx(0.9)
    # 1.3 times 1.1 GiB, in halves; 1.5 times 200 s, in minutes.
    assert row.suggestion == "memory_gb: 1.5, minutes: 5"


def test_cpu_time_of_one_attempt_is_not_compared_with_the_time_of_several(tmp_path: Path) -> None:
    stage = StageDirectory(tmp_path, "train-000000000000")
    stage.path.mkdir(parents=True)
    stage.finish({"wall_seconds": 100.0, "cpu_seconds": 30.0, "cores": 1, "attempts": 3})
    (row,) = usage(tmp_path, [stage.name])
    assert (row.seconds, row.efficiency) == (100, None)


def test_a_profile_of_another_version_costs_what_was_asked_for_alone(finished: Path) -> None:
    record = SubmissionRecord("e.yaml", (), "cad", {"max_requeues": 3}, "0", False, "me", None)
    write_submission(finished / "e/jobs/1", record)
    (row,) = usage(finished, ["train-000000000000", "train-000000000001"])
    assert (row.seconds, row.asked_minutes) == (200, None)


def test_a_stage_of_an_earlier_version_is_counted_without_what_it_lacks(tmp_path: Path) -> None:
    stage = StageDirectory(tmp_path, "train-000000000000")
    stage.path.mkdir(parents=True)
    stage.finish({"wall_seconds": 10.0})
    (row,) = usage(tmp_path, [stage.name])
    assert (row.seconds, row.peak_bytes, row.efficiency, row.suggestion) == (10, None, None, "minutes: 1")


@pytest.mark.parametrize("mark", ["pack", "task_of"])
def test_what_one_of_a_pack_took_is_not_what_its_task_needs(mark: str, tmp_path: Path) -> None:
    for number, more in enumerate(({}, {mark: 8})):
        stage = StageDirectory(tmp_path, f"train-00000000000{number}")
        stage.path.mkdir(parents=True)
        took = 10.0 * (1 + number)
        stage.finish({"wall_seconds": took, "peak_memory_bytes": 2**30, "cores": 1, **more})
    names = [f"train-00000000000{number}" for number in range(2)]
    (row,) = usage(tmp_path, names)
    assert (row.n, row.seconds, row.suggestion) == (2, 10, "memory_gb: 1.5, minutes: 1")
    (row,) = usage(tmp_path, names[1:])
    assert (row.n, row.seconds, row.peak_bytes, row.suggestion) == (1, None, None, "")
