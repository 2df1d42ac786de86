"""Stage directories: opened by name, without torch; what their markers and notes say."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict

import pytest

from cad.checksums import DamagedFileError
from cad.errors import CadError
from cad.experiments.plan.cells import Cell
from cad.experiments.plan.directory import StageDirectory, StageFile
from cad.experiments.plan.job_records import JobNote, SubmissionRecord, read_submission, write_submission
from cad.experiments.reporting.environment_info import environment_info
from cad.experiments.run.attempt import StageAttempt
from cad.experiments.run.repair import repair_stage
from cad.locks import folder_lock
from cad.schema import Config

NAME = "train-0123456789ab"
NOTE = JobNote("12_3", "cad-e-train", "e", "me", "e/jobs/1", 0.0, 1.0, 2.0)


@pytest.fixture
def directory(tmp_path) -> StageDirectory:
    actual = StageDirectory(tmp_path, NAME)
    actual.path.mkdir(parents=True)
    return actual


def test_an_empty_directory_says_nothing(directory):
    assert (directory.kind, directory.done, directory.failure(), directory.job()) == (
        "train",
        False,
        None,
        None,
    )
    assert directory.progress() == {} and not directory.locked()
    with pytest.raises(CadError, match=r"DONE is missing"):
        directory.record()


def test_a_failure_counts_until_the_stage_is_done(directory):
    directory.record_failure("out of memory", expected=False)
    assert directory.failure() == "out of memory"
    directory.finish({"updates": 3})
    assert (
        directory.done
        and directory.failure() is None
        and directory.record() == {"updates": 3, "stage": NAME, "outputs": {}}
    )
    directory.file(StageFile.DONE).unlink()
    directory.file(StageFile.FAILED).write_text("{")
    assert "FAILED is damaged" in directory.failure()
    directory.clear_failure()
    directory.clear_failure()
    assert directory.failure() is None


@pytest.mark.parametrize(
    ("record", "says"),
    [
        ({"wall_seconds": "x"}, "wall_seconds is 'x', not a number"),
        ({"wall_seconds": None}, "wall_seconds is None, not a number"),
        ({"cpu_seconds": True}, "cpu_seconds is True, not a number"),
        ({"peak_memory_bytes": float("nan")}, "peak_memory_bytes is nan, not a number"),
        ({"updates": 1.5}, "updates is 1.5, not a whole number from 0"),
        ({"cores": [2]}, r"cores is \[2\], not a whole number from 0"),
        ({"attempts": -1}, "attempts is -1, not a whole number from 0"),
        ({"device": 3}, "device is 3, not text"),
        ({"made_by": "me"}, "made_by is 'me', not a JSON object"),
        ({"made_by": {"packages": []}}, r"made_by\.packages is \[\], not texts by name"),
        ({"made_by": {"code_version": 1}}, r"made_by\.code_version is 1, not text"),
        ({"made_by": {"machine": {}}}, r"made_by\.machine is \{\}, not a machine's architecture, "),
    ],
    ids=str,
)
def test_a_record_with_a_value_of_the_wrong_kind_is_damaged(directory, record, says):
    marker = directory.file(StageFile.DONE)
    marker.write_text(json.dumps(record))
    with pytest.raises(DamagedFileError, match=rf"DONE is damaged \({says}.*\); 'cad repair .*' sets it"):
        directory.record()
    assert marker in [damage.path for damage in repair_stage(directory).damages]
    assert not directory.done


def test_a_record_of_an_early_version_may_be_empty(directory):
    directory.file(StageFile.DONE).write_text("{}")
    assert directory.record() == {}


def test_what_a_stage_records_is_right(directory):
    made_by = {**environment_info(), "own_code": {"mine": "0" * 64}, "image_sha256": "0" * 64}
    directory.finish({"wall_seconds": -0.5, "attempts": 1, "device": "cpu", "pack": 3, "made_by": made_by})
    assert directory.record()["made_by"] == made_by


def test_markers_that_are_pipes_or_folders_are_not_waited_for(directory):
    for name in (StageFile.FAILED, StageFile.PROGRESS, StageFile.JOB):
        os.mkfifo(directory.file(name))
    assert directory.failure() == f"{directory.file(StageFile.FAILED)} is damaged"
    assert directory.progress() == {} and directory.job() is None
    directory.file(StageFile.CHECKPOINTS).mkdir()
    (directory.file(StageFile.CHECKPOINTS) / "00009999").write_text("a file")
    assert directory.saved_update() is None


def test_a_lock_is_seen_while_it_is_held(directory):
    with folder_lock(directory.path, "it"):
        assert directory.locked()
    assert not directory.locked()


def test_progress_is_that_of_the_attempt(tmp_path):
    stage = Cell("", "", Config()).training
    attempt = StageAttempt(tmp_path, stage)
    attempt.claim()
    for done in (10, 20):
        attempt.report(done, 40, loss=0.5)
    note = StageDirectory(tmp_path, stage.name).progress()
    assert (note["done"], note["total"], note["first_done"], note["loss"]) == (20, 40, 10, 0.5)
    assert {file.name for file in attempt.directory.path.iterdir()} == {"stage.json", "progress.json"}


@pytest.mark.parametrize(
    "text",
    ["[1", '{"done": "x"}', '{"attempt": 1e400}', '{"attempt": NaN}', f'{{"done": {10**400}}}', "[" * 99_999],
)
def test_a_damaged_note_of_progress_is_none(text, directory):
    directory.file(StageFile.PROGRESS).write_text(text)
    assert directory.progress() == {}


@pytest.mark.parametrize("change", [{"folder": 7}, {"job_id": 5}, {"minutes": "b"}, {"memory": None}])
def test_a_damaged_note_of_a_job_is_none(change, directory):
    directory.file(StageFile.JOB).write_text(json.dumps(asdict(NOTE) | change))
    assert directory.job() is None


def test_a_job_and_its_attempts(directory):
    directory.note_job(NOTE)
    assert directory.job() == NOTE
    folder = directory.root / NOTE.folder
    assert NOTE.attempts(directory.root) == [] and read_submission(folder) is None
    folder.mkdir(parents=True)
    (folder / "12_3.attempts").write_bytes(b"1 node7 started\n\xff\n2 node7 out-of-memory\n")
    assert [attempt.event for attempt in NOTE.attempts(directory.root)] == ["started", "out-of-memory"]
    assert NOTE.attempts(directory.root)[0].node == "node7"
    submission = SubmissionRecord("e.yaml", ("a=1",), "cad submit", {}, "0.1.0+abc", False, "me")
    write_submission(folder, submission)
    assert read_submission(folder) == submission
    (folder / "submission.json").write_text(json.dumps(asdict(submission) | {"profile": 3}))
    assert read_submission(folder) is None


def test_what_tables_need_imports_no_torch():
    modules = "cad.experiments.plan.experiment, cad.experiments.plan.directory, cad.experiments.durations"
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
