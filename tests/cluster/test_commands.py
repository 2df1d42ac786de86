"""What fails stays failed, lost jobs are reported as dead, and a retry submits only these."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from workers import STATUS_SECONDS, soon_held

from cad.cluster.arrays import ResourceMultiplier
from cad.cluster.profile import Profile
from cad.cluster.script import SubmissionPaths, job_script
from cad.config import from_mapping
from cad.evaluation.results import load_results

# What a worker may do: be told of the time limit and save; not listen to it; say "again"; be killed; fail;
# end early.
STAND_IN = """\
#!/bin/bash
again=${SLURM_RESTART_COUNT:-0}
echo "memory $SLURM_MEM_PER_NODE"
# submitit's worker leaves a result; one that ends without it was not done.
well() { touch "$(dirname "$0")/${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}_0_result.pkl"; exit 0; }
case $SLURM_ARRAY_TASK_ID in
0) [ $again = 1 ] && well; trap "" USR2 TERM; while :; do sleep 1; done ;;
1) [ $again = 1 ] && well; exit 75 ;;
2) exit 75 ;;
3) kill -KILL $$ ;;
4) echo oom-kill; kill -KILL $$ ;;
5) exit 1 ;;
6) [ $again = 1 ] && well; exit 0 ;;
7) exit 76 ;;
esac
"""
EXPECTED = [
    ["started", "time-limit", "started", "done"],
    ["started", "saved", "started", "done"],
    ["started", "saved", "started", "saved", "started", "too-many-requeues"],
    ["started", "bad-node", "crashed", "started", "too-many-crashes"],
    ["started", "out-of-memory", "started", "out-of-memory"],
    ["started", "failed"],
    ["started", "bad-node", "crashed", "started", "done"],
    ["started", "pruned"],
]


@pytest.fixture(scope="module", autouse=True)
def stand_ins(cluster, tmp_path_factory) -> Path:
    """The job script around stand-in workers, which take their time while other tests run."""
    folder = tmp_path_factory.mktemp("stand-ins")
    worker = folder / "worker"
    worker.write_text(STAND_IN)
    worker.chmod(0o755)
    settings = {
        "resources": {"minutes": 1, "memory_gb": 0.1, "throttle": 2},
        "signal_seconds": 10,
        "retry": {
            "saved": {"times": 2},
            "killed": {"times": 1},
            "out_of_memory": {"times": 1, "memory": 1.5},
        },
    }
    profile = from_mapping(Profile, settings, "profile")
    paths = SubmissionPaths(folder, folder, str(worker))
    (folder / "job.sh").write_text(
        job_script(profile, "train", "stand-in", paths, ResourceMultiplier(), None, 8)
    )
    cluster.call("sbatch", folder / "job.sh")
    return folder


def settled(cluster, file, root):
    return lambda: (
        not any(stage["state"] in ("queued", "running") for stage in cluster.stages(file, root).values())
    )


def states(cluster, file, root):
    return {stage["kind"]: stage["state"] for stage in cluster.stages(file, root).values()}


def test_permanent_failure_is_not_requeued(cluster, one_cell, with_histories, wait_for, tmp_path):
    root = with_histories(tmp_path / "runs")
    settings = yaml.safe_load(one_cell.read_text())
    settings["base"]["train"] |= {"learning_rate": 1e9, "num_warmup_steps": 0}
    one_cell.write_text(yaml.safe_dump(settings))
    cluster.cad("submit", one_cell, "--profile", cluster.profile, "--root", root)
    wait_for(settled(cluster, one_cell, root), 120, every=STATUS_SECONDS)
    stages = {stage["kind"]: stage for stage in cluster.stages(one_cell, root).values()}
    assert stages["train"]["state"] == "failed" and "diverged" in stages["train"]["reason"]
    assert stages["evaluate"]["state"] == "dead" and stages["evaluate"]["log"] is None
    assert stages["evaluate"]["reason"] == f"behind failed {stages['train']['stage']}"
    (attempts,) = (root / "one/jobs").glob("*-slurm/*.attempts")
    assert [line.split()[2] for line in attempts.read_text().splitlines()] == ["started", "failed"]
    assert "diverged" in cluster.cad("status", one_cell, "--root", root).stdout


def test_gpus_are_asked_for_from_a_machine_without_one(cluster, one_cell, with_histories, wait_for, tmp_path):
    """As login nodes are.  The test cluster's nodes have a GPU in name alone, which the job finds out."""
    profile, root = tmp_path / "gpu.yaml", with_histories(tmp_path / "runs")
    settings = yaml.safe_load(cluster.profile.read_text())
    settings["resources"]["gpus"] = 1
    settings.setdefault("stages", {}).setdefault("histories", {})["gpus"] = 0
    profile.write_text(yaml.safe_dump(settings))
    submitted = cluster.cad("submit", one_cell, "--profile", profile, "--root", root).stdout
    assert "submitted train" in submitted and "submitted evaluate" in submitted
    scripts = [script.read_text() for script in (root / "one/jobs").glob("*-slurm/*.sh")]
    assert [script.count("#SBATCH --gpus-per-node=1") for script in scripts] == [1, 1]
    wait_for(settled(cluster, one_cell, root), 120, every=STATUS_SECONDS)
    stages = {stage["kind"]: stage for stage in cluster.stages(one_cell, root).values()}
    if torch.cuda.is_available():
        assert stages["train"]["state"] == "done"
    else:
        assert stages["train"]["state"] == "failed"
        assert "--device cuda: torch finds 0 CUDA devices here" in stages["train"]["reason"]


def test_cancel_then_retry(cluster, one_cell, with_histories, wait_for, tmp_path):
    root = with_histories(tmp_path / "runs")
    settings = yaml.safe_load(one_cell.read_text())
    settings["base"]["train"]["n_updates"] = 1000
    one_cell.write_text(yaml.safe_dump(settings))
    never = cluster.cad("retry", one_cell, "--root", root, check=False)
    assert never.returncode == 1 and "never submitted" in never.stderr
    training = soon_held(root, "train")
    cluster.cad("submit", one_cell, "--profile", cluster.profile, "--root", root)
    training.result()
    assert states(cluster, one_cell, root)["train"] == "running"
    assert "cancelled 2 jobs" in cluster.cad("cancel", one_cell, "--root", root).stdout
    wait_for(settled(cluster, one_cell, root), 90, every=STATUS_SECONDS)
    cluster.settle()
    actual = cluster.stages(one_cell, root)
    assert {stage["kind"]: stage["state"] for stage in actual.values()} == {
        "histories": "done", "train": "dead", "evaluate": "dead",
    }  # fmt: skip
    wrong = cluster.cad("retry", one_cell, "--root", root, "--mem", "more", check=False)
    assert wrong.returncode == 2 and "x2" in wrong.stderr
    before = os.umask(0o027)
    try:
        retried = cluster.fresh_cad("retry", one_cell, "--root", root, "--failed").stdout
    finally:
        os.umask(before)
    assert "submitted train" in retried and "submitted evaluate" in retried
    wait_for(lambda: set(states(cluster, one_cell, root).values()) == {"done"}, 120, every=STATUS_SECONDS)
    # Files of the retry follow the umask that it had, those of its jobs too.
    (newest,) = sorted((root / "one/jobs").iterdir())[-1:]
    (evaluate,) = (root / "stages").glob("evaluate-*")
    made = [newest, *newest.rglob("*"), *evaluate.glob("returns.h5"), evaluate / "DONE"]
    assert len(made) > 50
    assert not [path for path in made if not path.is_symlink() and path.stat().st_mode & 0o007]
    assert not [path for path in root.rglob("*") if not path.is_symlink() and path.stat().st_mode & 0o002]


def test_out_of_memory_is_seen_and_more_of_it_helps(cluster, one_cell, with_histories, wait_for, tmp_path):
    root = with_histories(tmp_path / "runs")
    profile = tmp_path / "narrow.yaml"
    profile.write_text("resources: {minutes: 5, memory_gb: 0.05}\nsignal_seconds: 30\n")
    cluster.cad("submit", one_cell, "--profile", profile, "--root", root)
    wait_for(settled(cluster, one_cell, root), 120, every=STATUS_SECONDS)
    train = next(s for s in cluster.stages(one_cell, root).values() if s["kind"] == "train")
    assert (train["state"], train["reason"]) == ("dead", "out of memory")
    cluster.cad("retry", one_cell, "--root", root, "--mem", "x20")
    asked = cluster.call("squeue", "-h", "-o", "%j %m").stdout.split("\n")
    assert "cad-one-train 1024M" in asked or "cad-one-train 1G" in asked, asked
    cluster.cad("cancel", one_cell, "--root", root)
    cluster.settle()


def cpu_seconds() -> float:
    """Of the commands called so far: the clock on the wall also counts the tests beside this one."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_a_thousand_cells(cluster, one_cell, with_histories, tmp_path, monkeypatch):
    """Held jobs: what is measured is submission and the table, with a squeue that takes five seconds."""
    asked, slow = tmp_path / "asked", tmp_path / "bin" / "squeue"
    slow.parent.mkdir()
    slow.write_text(f'#!/bin/bash\necho >>{asked}\nsleep 5\nexec {shutil.which("squeue")} "$@"\n')
    slow.chmod(0o755)
    asked.touch()
    monkeypatch.setenv("PATH", f"{slow.parent}:{os.environ['PATH']}")
    root = with_histories(tmp_path / "runs")
    settings = yaml.safe_load(one_cell.read_text())
    settings["seeds"] = list(range(1000))
    one_cell.write_text(yaml.safe_dump(settings))
    profile = tmp_path / "held.yaml"
    profile.write_text("resources: {minutes: 5, sbatch: {hold: true}}\nsignal_seconds: 30\n")
    before = cpu_seconds()
    submitted = cluster.fresh_cad("submit", one_cell, "--profile", profile, "--root", root).stdout
    took = cpu_seconds() - before
    assert submitted.count("1000 tasks") == 2
    assert len(asked.read_text()) <= 1
    asked.write_text("")
    answered = []
    for _ in range(3):
        before = cpu_seconds()
        actual = json.loads(
            cluster.fresh_cad("status", one_cell, "--root", root, "--json", check=False).stdout
        )
        answered.append(cpu_seconds() - before)
    assert len(actual) == 1000
    assert all(cell["stages"][1]["state"] == cell["stages"][2]["state"] == "queued" for cell in actual)
    assert len(asked.read_text()) == 3  # once a table
    # Before what may fail on a slow machine: held jobs would stay in the way of the tests that follow.
    assert "cancelled 2000 jobs" in cluster.cad("cancel", one_cell, "--root", root).stdout
    assert took < 30 and min(answered) < 2


def test_an_exported_model_is_evaluated(cluster, undisturbed, wait_for, tmp_path):
    root = tmp_path / "runs"
    training = min((undisturbed / "stages").glob("train-*"))
    trained = next(
        folder
        for folder in sorted((undisturbed / "stages").glob("evaluate-*"))
        if json.loads((folder / "stage.json").read_text())["inputs"] == [training.name]
    )
    given = ["--model", training / "model.safetensors", "--profile", cluster.profile, "--root", root]
    submitted = cluster.cad("submit", *given).stdout
    file = re.search(r"^experiment: (\S+)$", submitted, re.MULTILINE)[1]
    wait_for(lambda: set(states(cluster, file, root).values()) == {"done"}, 120, every=STATUS_SECONDS)
    (evaluation,) = (root / "stages").glob("evaluate-*")
    ours, theirs = (load_results(folder / "returns.h5") for folder in (evaluation, trained))
    assert np.array_equal(ours.returns, theirs.returns)
    assert "nothing to submit" in cluster.cad("submit", *given).stdout


def test_profile_mistakes_are_told_before_anything_is_submitted(cluster, one_cell, tmp_path):
    profile = tmp_path / "wrong.yaml"
    profile.write_text("resources: {minuts: 5}\n")
    done = cluster.cad("submit", one_cell, "--profile", profile, "--root", tmp_path / "runs", check=False)
    assert done.returncode == 2 and "minutes" in done.stderr
    profile.write_text("image: /nowhere/cad.sif\n")
    done = cluster.cad("submit", one_cell, "--profile", profile, "--root", tmp_path / "runs", check=False)
    assert done.returncode == 1 and "image" in done.stderr
    profile.write_text("resources: {partition: nowhere}\n")
    done = cluster.cad("submit", one_cell, "--profile", profile, "--root", tmp_path / "runs", check=False)
    assert done.returncode == 1 and "invalid partition" in done.stderr and "Traceback" not in done.stderr
    bad = cluster.cad(
        "submit", one_cell, "--profile", cluster.profile, "--root", tmp_path / "a%j", check=False
    )
    assert bad.returncode == 2 and "rename" in bad.stderr


def test_the_job_script_decides_what_comes_next(cluster, stand_ins, wait_for):
    wait_for(lambda: not cluster.call("squeue", "-h", "--name=stand-in").stdout, 150)
    attempts = sorted(stand_ins.glob("*.attempts"), key=lambda path: int(path.stem.partition("_")[2]))
    lines = [[line.split() for line in path.read_text().splitlines()] for path in attempts]
    assert [[event for _, _, event in task] for task in lines] == EXPECTED
    # Killed at once on one node: it went to the other one.
    first, second = (node for _, node, event in lines[3] if event == "started")
    assert first != second
    (log,) = stand_ins.glob("*_4_0_log.out")
    assert re.findall(r"^memory (\d+)", log.read_text(), re.MULTILINE) == ["102", "153"]
