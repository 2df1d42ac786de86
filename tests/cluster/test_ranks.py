"""One training over two nodes: preempted, a rank killed, and equal to the run that nobody disturbed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from workers import events, hold, second_rank_of, send, signalled, worker_of

SCALE = Path(__file__).parents[2] / "experiments" / "scale.yaml"
UPDATES, CHECKPOINT = 240, 40
FIRST_CHECKPOINT = (CHECKPOINT + 5) / UPDATES
# The same at a size that trains here: width, window and histories are small.
REDUCED = {
    "env": "{size: 2, n_tasks: 12, horizon: 8, n_heldout: 3, n_validation: 1}",
    "source": "{n_streams: 4, steps_per_stream: 160, n_steps: 40, batch_size: 80, n_epochs: 2}",
    "model": "{n_embd: 16, n_layer: 1, n_head: 2, encoder_n_layer: 1, n_transit: 16, n_latent: 2}",
    "train": f"{{n_updates: {UPDATES}, batch_size: 8, num_warmup_steps: 5, log_every: 5, "
    f"checkpoint_every: {CHECKPOINT}, validate_every: 120, watchdog_share: null}}",
    "evaluation": "{n_episodes: 4, n_rollouts: 2}",
}
ARMS = (
    "arms=[{name: ZeRO 1, set: {train.zero_stage: 1, train.learning_rate: 0.003}},"
    " {name: ZeRO 2, set: {train.zero_stage: 2, train.learning_rate: 0.004}}]"
)
PROFILE = """
resources: {partition: debug, minutes: 20, memory_gb: 1}
stages: {train: {nodes: 2, memory_gb: 1.5}}  # both trainings at once on nodes of 4 GB
signal_seconds: 30
"""
WORDS = [str(SCALE), *(f"base.{section}={values}" for section, values in REDUCED.items()), ARMS]


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
    trainings = [root / "stages" / folder.name for folder in (whole / "stages").glob("train-*")]
    assert len(trainings) == 2
    jobs = root / "scale/jobs"
    first = hold(root, "train", after=FIRST_CHECKPOINT, seconds=300)
    held = [first, hold(root, "train", but=[first], after=FIRST_CHECKPOINT, seconds=300)]
    workers = [worker_of(root / "stages" / name) for name in held]
    cluster.call("sbatch", "-p", "urgent", "-N2", "--exclusive", "-o", "/dev/null", "--wrap", "sleep 2")
    wait_for(lambda: all(signalled(worker) for worker in workers), 120, every=0.1)
    for worker in workers:
        send(worker, signal.SIGCONT)
    wait_for(lambda: sum("saved" in noted for noted in events(jobs).values()) == 2, 120)

    # When they go on, the second rank of one is killed.
    lamed = root / "stages" / hold(root, "train", after=FIRST_CHECKPOINT, seconds=240)
    send(second_rank_of(lamed), signal.SIGKILL)
    send(worker_of(lamed), signal.SIGCONT)
    wait_for(lambda: any("crashed" in noted for noted in events(jobs).values()), 90)

    wait_for(lambda: all((training / "DONE").exists() for training in trainings), 400)
    for training in trainings:
        undisturbed = whole / "stages" / training.name / "model.safetensors"
        assert (training / "model.safetensors").read_bytes() == undisturbed.read_bytes()
    cluster.settle()
    noted = list(events(jobs).values())
    assert all(n[-1] == "done" and n.count("done") == 1 for n in noted), noted
    assert sum("crashed" in n for n in noted) == 1, noted
    for log in jobs.glob("*-slurm/*_0_log.out"):
        assert "Traceback" not in log.read_text() or "rank 1 of 2" in log.read_text()
