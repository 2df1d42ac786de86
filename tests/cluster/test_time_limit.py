"""Real time limits: a training that saves in time goes on afterwards; one that does not is ended and retried.

They began long before, with the fixture ``limited``.
"""

from __future__ import annotations

import pytest
from workers import STATUS_SECONDS

# On a machine that other work keeps busy, an attempt may get no further than to its signal.
pytestmark = pytest.mark.timeout(900)


def done(cluster, cell):
    return lambda: all(s["state"] == "done" for s in cluster.stages(cell.file, cell.root).values())


def events(cell, name):
    notes = sorted(
        (cell.root / name / "jobs").glob("*-slurm/*.attempts"), key=lambda path: path.stat().st_mtime
    )
    return [[line.split()[2] for line in path.read_text().splitlines()] for path in notes]


def test_a_training_that_is_warned_saves_and_goes_on(accounted, limited, undisturbed, wait_for):
    cell = limited["warned"]
    wait_for(done(accounted, cell), 400, every=STATUS_SECONDS)
    assert cell.same_results(undisturbed)
    train = events(cell, "warned")[0]
    assert train[:2] == ["started", "saved"] and train[-1] == "done"
    log = accounted.cad("logs", cell.file, "1", "--stage", "train", "--root", cell.root).stdout
    assert "stopped by SIGUSR2" in log and "resuming at update" in log


def test_a_training_that_is_killed_is_known_and_gets_more_time(accounted, limited, wait_for):
    cell = limited["deaf"]

    def train():
        return accounted.stages(cell.file, cell.root, "train")[cell.train]

    wait_for(lambda: train()["state"] == "dead", 400, every=STATUS_SECONDS)
    # The accounting says so, or before it does the job script: "time limit or preempted".
    assert train()["reason"].startswith("time limit")
    assert events(cell, "deaf") == [["started", "too-many-requeues"]]
    accounted.cad("retry", cell.file, "--root", cell.root, "--time", "x10")
    asked = accounted.call("squeue", "-h", "-o", "%j %l").stdout.splitlines()
    assert "cad-deaf-train 20:00" in asked, asked
    accounted.cad("cancel", cell.file, "--root", cell.root)
