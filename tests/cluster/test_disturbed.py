"""A grid on a real cluster, hit by everything that happens there, ends with the numbers of `cad run`."""

from __future__ import annotations

import json
import os
import re
import signal
from collections import Counter
from pathlib import Path

EVENTS = {"started", "saved", "crashed", "done", "ended"}


def worker_of(root: Path, stage: str) -> int:
    return int(re.search(r"process (\d+)", (root / "stages" / stage / ".lock").read_text())[1])


def hold(wait_for, root, kind, but=()):
    """Stop a worker of a kind of stage in mid-work, so that it stays there however fast the machine is."""
    held = []

    def caught():
        for progress in (root / "stages").glob(f"{kind}-*/progress.json"):
            note, name = json.loads(progress.read_text()), progress.parent.name
            if name not in but and 0 < note["done"] < 0.7 * note["total"]:
                os.kill(worker_of(root, name), signal.SIGSTOP)
                held.append(name)
                return True
        return False

    wait_for(caught, 90, every=0.02)
    return held[0]


def signalled(process: int) -> bool:
    """Whether a worker was told to end: a signal waits for it, or has woken it."""
    status = dict(line.split(":\t", 1) for line in Path(f"/proc/{process}/status").read_text().splitlines())
    waiting = int(status["SigPnd"], 16) | int(status["ShdPnd"], 16)
    told = any(waiting >> (number - 1) & 1 for number in (signal.SIGUSR2, signal.SIGTERM))
    return told or not status["State"].startswith("T")


def job_of(root: Path, stage: str) -> str:
    return json.loads((root / "stages" / stage / "job.json").read_text())["job_id"]


def events(root: Path) -> dict[str, list[str]]:
    """Job to what its script noted."""
    return {
        file.stem: [line.split(" ", 2)[2] for line in file.read_text().splitlines()]
        for file in (root / "grid/jobs").glob("*-slurm/*.attempts")
    }


def test_grid_with_every_disturbance(cluster, grid, undisturbed, wait_for, tmp_path):
    root = tmp_path / "my runs; rm -rf x"
    submit = ("submit", grid, "--profile", cluster.profile, "--root", root)

    planned = cluster.cad(*submit, "--dry-run").stdout
    assert "to start at" in planned  # the verdict of sbatch --test-only
    # Nothing is queued but what other tests left running.
    assert set(cluster.call("squeue", "-h", "-o", "%j").stdout.split()) <= {"stand-in"}
    submitted = cluster.cad(*submit).stdout  # and the submitting process is gone
    assert re.findall(r"submitted (\w+): job \d+ \((\d+) task", submitted) == [
        ("histories", "1"), ("train", "6"), ("evaluate", "6"),
    ]  # fmt: skip

    # What was submitted is what --dry-run showed, but for the folder and the jobs waited for.
    (folder,) = (root / "grid/jobs").glob("*-slurm")
    for file, ours in zip(
        sorted(folder.glob("*_submission.sh"), key=lambda p: int(p.name.split("_")[0])),
        sorted((root / "grid/jobs/dry-run").glob("*.sh")),
        strict=True,
    ):
        ids = re.sub(r"(after\w+):\S+", r"\1", file.read_text())
        text = re.sub(r"(after\w+):\S+", r"\1", ours.read_text())
        assert ids == text.replace("jobs/dry-run", f"jobs/{folder.name}")

    again = cluster.cad(*submit).stdout
    assert "joined: 13 stages" in again and "nothing to submit" in again

    # scontrol requeue, while histories are collected
    histories = hold(wait_for, root, "histories")
    cluster.call("scontrol", "requeue", job_of(root, histories))

    killed = hold(wait_for, root, "train")
    warned = hold(wait_for, root, "train", but=(killed,))
    preempted = hold(wait_for, root, "train", but=(killed, warned))

    # The job controller dies and comes again; the same for a node's daemon.
    cluster.kill("slurmctld")
    cluster.call("slurmctld")
    wait_for(lambda: cluster.call("squeue", check=False).returncode == 0, 20)
    node = cluster.stages(grid, root, "train")[killed]["node"]
    cluster.kill(f"slurmd.{node}")
    cluster.call("slurmd", "-N", node)

    # SIGKILL of a worker
    os.kill(worker_of(root, killed), signal.SIGKILL)

    # The warning before a time limit, twice
    worker = worker_of(root, warned)
    cluster.call("scancel", "--signal=USR2", job_of(root, warned))
    wait_for(lambda: signalled(worker), 30, every=0.1)
    os.kill(worker, signal.SIGCONT)
    cluster.call("scancel", "--signal=USR2", job_of(root, warned), check=False)

    # Preemption by a job of higher priority
    worker = worker_of(root, preempted)
    cluster.call("sbatch", "-p", "urgent", "-N2", "--exclusive", "-o", "/dev/null", "--wrap", "sleep 2")
    wait_for(lambda: signalled(worker), 60, every=0.1)
    os.kill(worker, signal.SIGCONT)

    def finished():
        stages = cluster.stages(grid, root)
        wrong = {n: s["reason"] for n, s in stages.items() if s["state"] in ("failed", "dead")}
        assert not wrong, wrong
        return all(stage["state"] == "done" for stage in stages.values())

    wait_for(finished, 150, every=1)
    cluster.cad("report", grid, "--root", root)
    fingerprints = [
        json.loads((place / "grid/report/report.json").read_text())["fingerprint"]
        for place in (root, undisturbed)
    ]
    assert fingerprints[0] == fingerprints[1]

    cluster.settle()
    noted = events(root)
    jobs = {name: job_of(root, name) for name in (histories, killed, warned, preempted)}
    assert len(noted) == 13
    assert all(Counter(job)["done"] == 1 and job[-1] == "done" for job in noted.values()), noted
    assert set().union(*noted.values()) <= EVENTS
    assert "crashed" in noted[jobs[killed]]
    assert "saved" in noted[jobs[warned]]
    assert "saved" in noted[jobs[preempted]]
    assert noted[jobs[histories]].count("started") == 2
    for metrics in (root / "stages").glob("train-*/metrics.jsonl"):
        steps = [json.loads(line)["step"] for line in metrics.read_text().splitlines()]
        assert steps == [0, *range(5, 301, 5)]

    done = cluster.cad(*submit).stdout
    assert "nothing to submit" in done and "joined" not in done
    logs = [cluster.cad("logs", grid, str(n), "--stage", "train", "--root", root).stdout for n in range(1, 7)]
    assert any("resuming at update" in log for log in logs)
    assert all(f"from {folder / 'code/cad'}\n" in log for log in logs)
