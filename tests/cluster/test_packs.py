"""A packed grid on a real cluster: preempted, with one that diverges and one that is cancelled."""

from __future__ import annotations

import json
import re
import signal

import numpy as np
import pytest
import yaml
from forked import run_cli
from workers import STATUS_SECONDS, events, job_of, send, signalled, soon_held, worker_of

from cad.evaluation.results import load_results
from cad.experiments.plan.experiment import open_experiment
from cad.training.metrics import read_metrics


@pytest.fixture(scope="module")
def seeds(grid, tmp_path_factory):
    """Two seeds, and a model of their shape that diverges."""
    settings = yaml.safe_load(grid.read_text())
    settings["base"]["train"]["n_updates"] = 100
    settings["arms"] = [
        {"name": "good", "set": {"model.kind": "ad"}, "seeds": [0, 1]},
        {
            "name": "wild",
            "set": {"model.kind": "ad", "train.learning_rate": 1e9, "train.num_warmup_steps": 0},
            "seeds": [0],
        },
    ]
    file = tmp_path_factory.mktemp("seeds") / "seeds.yaml"
    file.write_text(yaml.safe_dump(settings | {"name": "seeds"}))
    return file


@pytest.fixture(scope="module")
def single(seeds, with_histories, tmp_path_factory):
    """The same, without packs, by `cad run`."""
    root = with_histories(tmp_path_factory.mktemp("single") / "runs")
    assert run_cli(["run", str(seeds), "--root", str(root), "--inline", "--no-figures"]).returncode == 1
    return root


def report(root):
    return json.loads((root / "seeds/report/report.json").read_text())["cells"]


@pytest.mark.timeout(600)
def test_a_packed_grid_is_disturbed_and_ends_with_the_same_report(
    cluster, seeds, single, with_histories, wait_for, tmp_path
):
    root = with_histories(tmp_path / "runs")
    first, second, wild = (cell.training.name for cell in open_experiment(seeds, [], root).cells)
    submit = ("submit", seeds, "--profile", cluster.profile, "--root", root, "--pack", "8")
    planned = cluster.cad(*submit, "--dry-run").stdout
    assert re.search(r"task 0: a pack of 3\n" + r"( +train-\w+  .*\n){3}", planned)
    held = soon_held(root, "train")
    submitted = cluster.cad(*submit).stdout
    assert re.findall(r"submitted (\w+): job \d+ \((.*)\)", submitted) == [
        ("train", "1 task, packs of 3 trainings"), ("evaluate", "3 tasks"),
    ]  # fmt: skip
    assert len({job_of(root, name) for name in (first, second, wild)}) == 1

    # While the pack is in its middle, the second one is cancelled, and a job of higher priority comes.
    worker = worker_of(root / "stages" / held.result())
    cancelled = cluster.cad("cancel", seeds, "2", "--root", root).stdout
    assert "cancelled 2 jobs" in cancelled and second in cancelled
    assert cluster.stages(seeds, root, "train")[second]["state"] == "failed"
    cluster.call("sbatch", "-p", "urgent", "-N2", "--exclusive", "-o", "/dev/null", "--wrap", "sleep 2")
    wait_for(lambda: signalled(worker), 120, every=0.1)
    send(worker, signal.SIGCONT)

    def stages():
        return {stage["stage"]: stage for cell in cluster.cells(seeds, root) for stage in cell["stages"]}

    def settled():
        return not any(stage["state"] in ("queued", "running") for stage in stages().values())

    wait_for(settled, 240, every=STATUS_SECONDS)
    cluster.settle()
    stands = [[stage["state"] for stage in cell["stages"]] for cell in cluster.cells(seeds, root)]
    assert stands == [["done"] * 3, ["done", "failed", "dead"], ["done", "failed", "dead"]]
    assert "diverged" in stages()[wild]["reason"] and "cancelled" in stages()[second]["reason"]
    behind = [stage["reason"] for stage in stages().values() if stage["kind"] == "evaluate"]
    assert f"behind failed {wild}" in behind
    noted = events(root / "seeds/jobs")[job_of(root, first)]
    assert noted[:3] == ["started", "saved", "started"] and noted[-1] == "failed"

    # What is left is a pack again: the cancelled one goes on where it was saved, the other diverges again.
    retried = cluster.cad("retry", seeds, "--root", root, "--failed").stdout
    assert "submitted train" in retried and "packs of 2 trainings" in retried
    wait_for(settled, 240, every=STATUS_SECONDS)
    cluster.settle()
    assert [stages()[name]["state"] for name in (first, second, wild)] == ["done", "done", "failed"]
    assert "resuming at update" in cluster.cad("logs", seeds, "2", "--stage", "train", "--root", root).stdout

    cluster.cad("report", seeds, "--root", root)
    packed, alone = report(root), report(single)
    assert [cell["status"].partition(":")[0] for cell in packed] == ["done", "done", "failed"]
    assert [cell["status"].partition(":")[0] for cell in alone] == ["done", "done", "failed"]
    for cell in open_experiment(seeds, [], root).cells[:2]:
        ours, theirs = (
            [
                line["loss"]
                for line in read_metrics(place / "stages" / cell.training.name / "metrics.jsonl")[1:]
            ]
            for place in (root, single)
        )
        assert ours == pytest.approx(theirs, rel=1e-3)
        returns = [
            load_results(place / "stages" / cell.evaluation.name / "returns.h5").returns
            for place in (root, single)
        ]
        assert np.mean(returns[0]) == pytest.approx(np.mean(returns[1]), abs=0.5)
