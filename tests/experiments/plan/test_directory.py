"""Stage directories: opened by name, without torch; what their markers and notes say."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict

import pytest

from cad.errors import CadError
from cad.experiments.plan.cells import Cell
from cad.experiments.plan.directory import StageDirectory, StageFile
from cad.experiments.plan.job_records import JobNote, SubmissionRecord, read_submission, write_submission
from cad.experiments.run.attempt import StageAttempt
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
