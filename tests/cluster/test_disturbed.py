"""A grid on a real cluster, hit by everything that happens there, ends with the numbers of `cad run`.

With ``CAD_TEST_IMAGE=build/images/cad.sif`` (`make image` builds it) every job runs in that image.
"""

from __future__ import annotations

import hashlib
import json
import re
import signal

import pytest
from workers import STATUS_SECONDS, events, hold, job_of, send, signalled, soon_held, worker_of

EVENTS = {"started", "saved", "crashed", "bad-node", "done", "ended"}


@pytest.mark.timeout(600)
def test_grid_with_every_disturbance(cluster, grid, undisturbed, image, image_profile, wait_for, tmp_path):
    root = tmp_path / "my runs; rm -rf x"
    submit = ("submit", grid, "--profile", image_profile, "--root", root)

    planned = cluster.cad(*submit, "--dry-run").stdout
    assert "to start at" in planned  # the verdict of sbatch --test-only
    # Nothing is queued but what other tests left running.
    assert set(cluster.call("squeue", "-h", "-o", "%j").stdout.split()) <= {"stand-in"}
    collecting = soon_held(root, "histories")
    submitted = cluster.cad(*submit).stdout  # and the submitting process is gone
    assert re.findall(r"submitted (\w+): job \d+ \((\d+) task", submitted) == [
        ("histories", "1"), ("train", "3"), ("evaluate", "3"),
    ]  # fmt: skip

    # What was submitted is what --dry-run showed, but for the folder (also in comments) and the jobs
    # waited for.
    (folder,) = (root / "grid/jobs").glob("*-slurm")
    for file, ours in zip(
        sorted(folder.glob("*.sh")),
        sorted((root / "grid/jobs/dry-run").glob("*.sh")),
        strict=True,
    ):
        ids = re.sub(r"(after\w+):\S+", r"\1", file.read_text())
        text = re.sub(r"(after\w+):\S+", r"\1", ours.read_text())
        assert ids == text.replace("jobs/dry-run", f"jobs/{folder.name}").replace(
            "comment=cad-dry-run-", f"comment=cad-{folder.name}-"
        )

    again = cluster.cad(*submit).stdout
    assert "joined: 7 stages" in again and "nothing to submit" in again

    # scontrol requeue, while histories are collected
    histories = collecting.result()
    cluster.call("scontrol", "requeue", job_of(root, histories))

    killed = hold(root, "train")
    warned = hold(root, "train", but=(killed,))
    preempted = hold(root, "train", but=(killed, warned))

    # The job controller dies and comes again; the same for a node's daemon.
    cluster.kill("slurmctld")
    cluster.call("slurmctld")
    wait_for(lambda: cluster.call("squeue", check=False).returncode == 0, 60)
    node = cluster.stages(grid, root, "train")[killed]["node"]
    cluster.kill(f"slurmd.{node}")
    cluster.call("slurmd", "-N", node)

    # SIGKILL of a worker
    send(worker_of(root / "stages" / killed), signal.SIGKILL)

    # The warning before a time limit, twice
    worker = worker_of(root / "stages" / warned)
    cluster.call("scancel", "--signal=USR2", job_of(root, warned))
    wait_for(lambda: signalled(worker), 90, every=0.1)
    send(worker, signal.SIGCONT)
    cluster.call("scancel", "--signal=USR2", job_of(root, warned), check=False)

    # Preemption by a job of higher priority
    worker = worker_of(root / "stages" / preempted)
    cluster.call("sbatch", "-p", "urgent", "-N2", "--exclusive", "-o", "/dev/null", "--wrap", "sleep 2")
    wait_for(lambda: signalled(worker), 120, every=0.1)
    send(worker, signal.SIGCONT)

    def finished():
        stages = cluster.stages(grid, root)
        wrong = {n: s["reason"] for n, s in stages.items() if s["state"] in ("failed", "dead")}
        assert not wrong, wrong
        return all(stage["state"] == "done" for stage in stages.values())

    wait_for(finished, 240, every=STATUS_SECONDS)
    cluster.cad("report", grid, "--root", root)
    fingerprints = [
        json.loads((place / "grid/report/report.json").read_text())["fingerprint"]
        for place in (root, undisturbed)
    ]
    assert fingerprints[0] == fingerprints[1]

    cluster.settle()
    noted = events(root / "grid/jobs")
    jobs = {name: job_of(root, name) for name in (histories, killed, warned, preempted)}
    assert len(noted) == 7
    # Slurm may start a task again that was done already (24.11): it finds that, and trains nothing (below).
    assert all("done" in job and job[-1] == "done" for job in noted.values()), noted
    assert set().union(*noted.values()) <= EVENTS
    assert "crashed" in noted[jobs[killed]]
    assert "saved" in noted[jobs[warned]]
    assert "saved" in noted[jobs[preempted]]
    assert noted[jobs[histories]].count("started") == 2
    for metrics in (root / "stages").glob("train-*/metrics.jsonl"):
        steps = [json.loads(line)["step"] for line in metrics.read_text().splitlines()]
        assert steps == [0, *range(5, 301, 5)]

    digest = hashlib.sha256(image.read_bytes()).hexdigest() if image else None
    assert json.loads((folder / "submission.json").read_text())["image_sha256"] == digest
    finished = [json.loads(file.read_text()) for file in (root / "stages").glob("*/DONE")]
    assert len(finished) == 7 and {facts["made_by"].get("image_sha256") for facts in finished} == {digest}

    done = cluster.cad(*submit).stdout
    assert "nothing to submit" in done and "joined" not in done
    logs = [cluster.cad("logs", grid, str(n), "--stage", "train", "--root", root).stdout for n in range(1, 4)]
    assert any("resuming at update" in log for log in logs)
    # What a job's log says, once: where it stands, and that it ended.
    assert all(log.count("Job completed successfully") == 1 for log in logs)
    assert all(
        re.search(r"train-\w+: 300 of 300 \(100%\), .* a second, 0:00 left, loss", log) for log in logs
    )
    assert all(f"from {folder / 'code/cad'}\n" in log for log in logs)
