"""The worker side: what counts as a failure."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from later_stop import LaterStop

from cad.errors import CadError
from cad.evaluation.results import load_results
from cad.experiments.plan.cells import Cell
from cad.experiments.plan.directory import StageDirectory, StageFile
from cad.experiments.plan.experiment import open_experiment
from cad.experiments.run.attempt import PROGRESS_LOG, StageAttempt
from cad.experiments.run.job import run_or_record
from cad.experiments.run.resources import Resources
from cad.interrupt import InterruptedRun, StopFlag
from cad.schema import Config


def test_what_fails_while_stopping_is_no_failure(tmp_path):
    training = Cell("", "", Config()).training
    marker = StageDirectory(tmp_path, training.name).file(StageFile.FAILED)
    stop = StopFlag()
    with pytest.raises(CadError, match="which is not complete"):
        run_or_record(tmp_path, training, Resources(), stop)
    assert marker.exists()
    stop.request()
    with pytest.raises(InterruptedRun):
        run_or_record(tmp_path, training, Resources(), stop)
    assert not marker.exists()


def test_an_evaluation_goes_on_where_it_was_stopped(copy, small):
    cell = open_experiment(small, [], copy).cells[-1]
    directory = StageDirectory(copy, cell.evaluation.name)
    whole = load_results(directory.file(StageFile.RETURNS)).returns
    for name in (StageFile.DONE, StageFile.RETURNS, StageFile.ACTIONS):
        directory.file(name).unlink()
    with pytest.raises(InterruptedRun, match="episode 2 of"):
        run_or_record(copy, cell.evaluation, Resources(), LaterStop(3))
    saved = directory.file(StageFile.ROLLOUT)
    assert saved.exists() and not directory.done
    with pytest.raises(InterruptedRun, match="episode 4 of"):
        run_or_record(copy, cell.evaluation, Resources(), LaterStop(3))  # episodes 2, 3, 4
    run_or_record(copy, cell.evaluation, Resources(), StopFlag())
    assert (load_results(directory.file(StageFile.RETURNS)).returns == whole).all()
    assert not saved.exists()


def test_a_line_of_progress_names_share_rate_and_time_left(tmp_path, caplog, monkeypatch):
    now = 1000.0
    monkeypatch.setattr("cad.experiments.run.attempt.time", SimpleNamespace(time=lambda: now))
    attempt = StageAttempt(tmp_path, Cell("", "", Config()).training)
    attempt.claim()
    name = attempt.stage.name
    with caplog.at_level("INFO", PROGRESS_LOG):
        for done in (0, 100, 200, 400):  # 10 a second, a line every 30 s and at the end
            now = 1000.0 + done / 10
            attempt.report(done, 400, loss=0.5)
    assert [record.getMessage() for record in caplog.records] == [
        f"{name}: 0 of 400 (0%), loss 0.500",
        f"{name}: 400 of 400 (100%), 10 a second, 0:00 left, loss 0.500",
    ]
    caplog.clear()
    attempt.report(400, 400)  # a terminal has bars
    assert not caplog.records
