"""One training over two nodes: preempted, a rank killed, and equal to the run that nobody disturbed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

SCALE = Path(__file__).parents[2] / "experiments" / "scale.yaml"
# The same at a size that trains here: width, window and histories are small.
REDUCED = {
    "env": "{size: 2, n_tasks: 12, horizon: 8, n_heldout: 3, n_validation: 1}",
    "source": "{n_streams: 4, steps_per_stream: 160, n_steps: 40, batch_size: 80, n_epochs: 2}",
    "model": "{n_embd: 16, n_layer: 1, n_head: 2, encoder_n_layer: 1, n_transit: 16, n_latent: 2}",
    "train": "{n_updates: 400, batch_size: 8, num_warmup_steps: 5, log_every: 5, checkpoint_every: 50, "
    "validate_every: 200, watchdog_share: null}",
    "evaluation": "{n_episodes: 4, n_rollouts: 2}",
}
ARMS = (
    "arms=[{name: ZeRO 1, set: {train.zero_stage: 1, train.learning_rate: 0.003}},"
    " {name: ZeRO 2, set: {train.zero_stage: 2, train.learning_rate: 0.004}}]"
)
PROFILE = """
resources: {partition: debug, minutes: 20, memory_gb: 1}
stages: {train: {nodes: 2, memory_gb: 2}}
signal_seconds: 30
"""
WORDS = [str(SCALE), *(f"base.{section}={values}" for section, values in REDUCED.items()), ARMS]


def process_of(job_id: str, rank: int) -> int:
    """The worker that is a given task of a job."""
    for environ in Path("/proc").glob("[0-9]*/environ"):
        try:
            variables = environ.read_bytes().split(b"\0")
            command = environ.with_name("cmdline").read_bytes()
        except OSError:
            continue
        wanted = {f"SLURM_PROCID={rank}".encode(), f"SLURM_JOB_ID={job_id}".encode()}
        if wanted <= set(variables) and b"submitit" in command:
            return int(environ.parent.name)
    raise AssertionError(f"no process is task {rank} of job {job_id}")


def shares(cluster, root: Path) -> dict[str, tuple[str, float]]:
    """Training to its raw job id and the share of its updates that is done, of those that run."""
    cells = json.loads(cluster.cad("status", *WORDS, "--root", root, "--json").stdout)
    stages = {s["stage"]: s for cell in cells for s in cell["stages"]}
    wrong = {n: s["reason"] for n, s in stages.items() if s["state"] in ("failed", "dead")}
    assert not wrong, wrong
    return {
        name: (s["job_id"], s["done_share"] or 0.0, s["state"])
        for name, s in stages.items()
        if s["kind"] == "train"
    }


def events(root: Path) -> list[list[str]]:
    return [
        [line.split(" ", 2)[2] for line in file.read_text().splitlines()]
        for file in (root / "scale/jobs").glob("*-slurm/*.attempts")
    ]


@pytest.mark.timeout(900)
def test_a_preempted_training_over_two_nodes_ends_as_if_nothing_had_been(cluster, image, wait_for, tmp_path):
    whole, root = tmp_path / "whole", tmp_path / "slurm"
    profile = tmp_path / "profile.yaml"
    profile.write_text(PROFILE + (f"image: {image}\n" if image else ""))
    command = [sys.executable, "-m", "cad.cli", "run", *WORDS, "--ranks", "2", "--device", "cpu"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, "--root", str(whole), "--workers", "1"],
        capture_output=True, text=True, env=environment, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr

    cluster.cad("submit", *WORDS, "--profile", profile, "--root", root)
    moving: list[str] = []

    def moved() -> bool:
        """Whether a training is in its middle; the job of the last one found is the last of ``moving``."""
        found = [
            job
            for job, share, state in shares(cluster, root).values()
            if state == "running" and 0.02 < share < 0.7
        ]
        moving.extend(found)
        return bool(found)

    wait_for(moved, 240)
    cluster.call("sbatch", "-p", "urgent", "-N2", "--exclusive", "-o", "/dev/null", "--wrap", "sleep 2")
    wait_for(lambda: any("saved" in noted for noted in events(root)), 120)

    # When one goes on, its second rank dies without a word.
    wait_for(moved, 240)
    raw = cluster.call("squeue", "-h", "-j", moving[-1], "-o", "%A").stdout.split()[0]
    os.kill(process_of(raw, 1), signal.SIGKILL)
    wait_for(lambda: any("crashed" in noted for noted in events(root)), 90)

    wait_for(lambda: all(state == "done" for *_, state in shares(cluster, root).values()), 400, every=2)
    for trained in (whole / "stages").glob("train-*"):
        ours, theirs = trained / "model.safetensors", root / "stages" / trained.name / "model.safetensors"
        assert ours.read_bytes() == theirs.read_bytes()
    cluster.settle()
    noted = events(root)
    assert all(n[-1] == "done" and n.count("done") == 1 for n in noted), noted
    assert sum("crashed" in n for n in noted) == 1, noted
    for log in (root / "scale/jobs").glob("*-slurm/*_0_log.out"):
        assert "Traceback" not in log.read_text() or "rank 1 of 2" in log.read_text()
