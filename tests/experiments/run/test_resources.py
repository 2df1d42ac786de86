"""What a stage may use: checked where it runs, not where it is submitted from."""

from __future__ import annotations

import pickle

import pytest
import torch

from cad.errors import UsageError
from cad.experiments.run.resources import Resources


@pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without a GPU: this one has one")
def test_a_job_for_a_gpu_is_described_on_a_machine_without_one():
    resources = pickle.loads(pickle.dumps(Resources(device="cuda")))
    assert resources.device == "cuda"
    with pytest.raises(UsageError, match="--device cuda: torch finds 0 CUDA devices here"):
        resources.require_device()


@pytest.mark.parametrize("option", ["workers", "threads", "ranks", "pack"])
@pytest.mark.parametrize("count", [0, -1, 1.5, "2", True, None])
def test_counts_that_are_none_are_refused(option, count):
    with pytest.raises(UsageError, match=f"--{option} .*: give a whole number from 1"):
        Resources(**{option: count})
