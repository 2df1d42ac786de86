"""The worker side: what counts as a failure."""

from __future__ import annotations

import pytest

from cad.errors import CadError
from cad.experiments.plan.cells import Cell
from cad.experiments.plan.directory import StageDirectory, StageFile
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
