"""A packed grid of two shapes on a real cluster: preempted, one of it diverges and one is cancelled."""

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
    """Two seeds, a model of their shape that diverges, and a longer training of another shape."""
    settings = yaml.safe_load(grid.read_text())
    settings["base"]["train"]["n_updates"] = 100
    settings["arms"] = [
        {"name": "good", "set": {"model.kind": "ad"}, "seeds": [0, 1]},
        {
            "name": "wild",
            "set": {"model.kind": "ad", "train.learning_rate": 1e9, "train.num_warmup_steps": 0},
            "seeds": [0],
        },
        {
            "name": "deep",
            "set": {"model.kind": "ad", "model.n_layer": 2, "train.n_updates": 200},
            "seeds": [0],
        },
    ]
    file = tmp_path_factory.mktemp("seeds") / "seeds.yaml"
    file.write_text(yaml.safe_dump(settings | {"name": "seeds"}))
    return file


@pytest.fixture
def profile(image_profile, tmp_path):
    """That of the cluster, in the image where there is one, and two cores for a task of trainings."""
    file = tmp_path / "profile.yaml"
    file.write_text(image_profile.read_text() + "stages: {train: {cpus: 2, memory_gb: 3}}\n")
    return file


@pytest.fixture(scope="module")
def single(seeds, with_histories, tmp_path_factory):
    """The same, without packs, by `cad run`."""
    root = with_histories(tmp_path_factory.mktemp("single") / "runs")
    assert run_cli(["run", str(seeds), "--root", str(root), "--inline", "--no-figures"]).returncode == 1
    return root


def report(root):
    return json.loads((root / "seeds/report/report.json").read_text())["cells"]


@pytest.mark.timeout(900)
def test_a_packed_grid_is_disturbed_and_ends_with_the_same_report(
    cluster, profile, seeds, single, with_histories, wait_for, tmp_path
):
    root = with_histories(tmp_path / "runs")
    names = [cell.training.name for cell in open_experiment(seeds, [], root).cells]
    first, second, wild, deep = names
    submit = ("submit", seeds, "--profile", profile, "--root", root, "--pack", "8")
    planned = cluster.cad(*submit, "--dry-run").stdout
    tasks = r"task 0: a pack of 4 in 4 processes, 2 side by side, about 1\.\d GiB\n( +train-\w+  .*\n){4}"
    assert re.search(tasks, planned)
    held = [soon_held(root, "train", but=set(names) - {name}) for name in (deep, second)]
    submitted = cluster.cad(*submit).stdout
    assert re.findall(r"submitted (\w+): job \d+ \((.*)\)", submitted) == [
        ("train", "1 task, packs of 4 trainings"), ("evaluate", "4 tasks"),
    ]  # fmt: skip
    assert len({job_of(root, name) for name in names}) == 1

    # While two of the pack are in their middle, one is cancelled, and a job of higher priority comes.
    workers = [worker_of(root / "stages" / one.result()) for one in held]
    assert workers[0] != workers[1]
    cancelled = cluster.cad("cancel", seeds, "2", "--root", root).stdout
    assert "cancelled 2 jobs" in cancelled and second in cancelled
    assert cluster.stages(seeds, root, "train")[second]["state"] == "failed"
    cluster.call("sbatch", "-p", "urgent", "-N2", "--exclusive", "-o", "/dev/null", "--wrap", "sleep 2")
    for worker in workers:
        wait_for(lambda worker=worker: signalled(worker), 120, every=0.1)
    for worker in workers:
        send(worker, signal.SIGCONT)

    def stages():
        return {stage["stage"]: stage for cell in cluster.cells(seeds, root) for stage in cell["stages"]}

    def settled():
        return not any(stage["state"] in ("queued", "running") for stage in stages().values())

    wait_for(settled, 240, every=STATUS_SECONDS)
    cluster.settle()
    stands = [[stage["state"] for stage in cell["stages"]] for cell in cluster.cells(seeds, root)]
    assert stands == [["done"] * 3, ["done", "failed", "dead"], ["done", "failed", "dead"], ["done"] * 3]
    assert "diverged" in stages()[wild]["reason"] and "cancelled" in stages()[second]["reason"]
    behind = [stage["reason"] for stage in stages().values() if stage["kind"] == "evaluate"]
    assert f"behind failed {wild}" in behind
    noted = events(root / "seeds/jobs")[job_of(root, first)]
    assert noted[:3] == ["started", "saved", "started"] and noted[-1] == "failed"

    log = cluster.cad("logs", seeds, "4", "--stage", "train", "--root", root).stdout
    assert "4 trainings in 4 processes, 2 side by side" in log and f"{deep}: " in log

    # What is left is a pack again: the cancelled one goes on where it was saved, the other diverges again.
    retried = cluster.cad("retry", seeds, "--root", root, "--failed").stdout
    assert "submitted train" in retried and "packs of 2 trainings" in retried
    wait_for(settled, 240, every=STATUS_SECONDS)
    cluster.settle()
    assert [stages()[name]["state"] for name in names] == ["done", "done", "failed", "done"]
    assert "resuming at update" in cluster.cad("logs", seeds, "2", "--stage", "train", "--root", root).stdout

    cluster.cad("report", seeds, "--root", root)
    packed, alone = report(root), report(single)
    assert [cell["status"].partition(":")[0] for cell in packed] == ["done", "done", "failed", "done"]
    assert [cell["status"].partition(":")[0] for cell in alone] == ["done", "done", "failed", "done"]
    for cell in open_experiment(seeds, [], root).cells:
        if cell.training.name == wild:
            continue
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
