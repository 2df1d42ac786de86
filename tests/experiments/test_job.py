"""The worker side: what counts as a failure."""

from __future__ import annotations

import pytest

from cad.config.schema import Config
from cad.errors import CadError
from cad.experiments.directory import StageDirectory
from cad.experiments.job import FAILED, run_or_record
from cad.experiments.plan import Cell
from cad.experiments.stages import Resources
from cad.interrupt import InterruptedRun, StopFlag


def test_what_fails_while_stopping_is_no_failure(tmp_path):
    training = Cell("", "", Config()).training
    marker = StageDirectory(tmp_path, training).file(FAILED)
    stop = StopFlag()
    with pytest.raises(CadError, match="which is not complete"):
        run_or_record(tmp_path, training, Resources(), stop)
    assert marker.exists()
    stop.request()
    with pytest.raises(InterruptedRun):
        run_or_record(tmp_path, training, Resources(), stop)
    assert not marker.exists()
