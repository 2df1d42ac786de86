"""Random faults on a real cluster until a sweep ends: same numbers, nothing lost, nothing trained twice.

    python tests/cluster/chaos.py [--seed 0] [--minutes 10] [--every 4]

It needs root and Slurm (slurm/README.md).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parents[1])]

from conftest import TESTCLUSTER, Cluster, wait_for  # noqa: E402
from forked import run_cli  # noqa: E402
from workers import events, job_of, send, worker_of  # noqa: E402

from cad.cluster.queue import LAUNCH_FAILED  # noqa: E402

SWEEP = """
name: chaos
base:
  env: {size: 4, horizon: 8, n_heldout: 3, n_validation: 0}
  source: {n_streams: 4, steps_per_stream: 160, n_steps: 40, batch_size: 80, n_epochs: 20}
  model: {n_embd: 16, n_layer: 1, n_head: 2, encoder_n_layer: 1, n_transit: 16, n_latent: 2}
  train: {n_updates: 1500, batch_size: 8, num_warmup_steps: 5, log_every: 50, checkpoint_every: 50,
          validate_every: 0, max_episode_gap: 2, watchdog_share: null}
  evaluation: {n_episodes: 40, n_rollouts: 2}
arms:
  - name: CompressedAD
    grid: {model.max_compression_depth: [0, 1, 2]}
seeds: [0, 1]
"""
# Faults are what this is about: none of them is one too many.
PROFILE = """
resources: {partition: debug, minutes: 60, memory_gb: 1}
signal_seconds: 30
retry: {saved: {times: 1000}, killed: {times: 1000}, node_fail: {times: 1000}}
"""
Fault = Callable[["Chaos"], bool]


class Chaos:
    """A sweep on a cluster, and what may happen to it; a fault returns whether there was something to hit."""

    def __init__(self, cluster: Cluster, folder: Path, seed: int, log: Callable[[str], None]) -> None:
        self.cluster, self.random, self.log = cluster, random.Random(seed), log
        self.file, self.root, self.profile = folder / "chaos.yaml", folder / "runs", folder / "profile.yaml"
        self.file.write_text(SWEEP)
        self.profile.write_text(PROFILE)
        self.counts: Counter[str] = Counter()
        self.commands = 0  # that were needed

    # What is there

    def statuses(self) -> dict[str, dict]:
        return self.cluster.stages(self.file, self.root)

    def running(self) -> list[str]:
        """Stages with a worker of a Slurm job."""
        found = []
        for lock in (self.root / "stages").glob("*/.lock"):
            with contextlib.suppress(OSError, TypeError):
                process = worker_of(lock.parent)
                if b"submitit" in Path(f"/proc/{process}/cmdline").read_bytes():
                    found.append(lock.parent.name)
        return sorted(found)

    def some_stage(self) -> str | None:
        stages = self.running()
        return self.random.choice(stages) if stages else None

    def signal_worker(self, number: int) -> bool:
        stage = self.some_stage()
        if stage is None:
            return False
        send(worker_of(self.root / "stages" / stage), number)
        return True

    def scontrol(self, *words: str) -> bool:
        return self.cluster.call("scontrol", *words, check=False).returncode == 0

    # Faults

    def worker_killed(self) -> bool:
        return self.signal_worker(signal.SIGKILL)

    def worker_terminated(self) -> bool:
        return self.signal_worker(signal.SIGTERM)

    def worker_warned(self) -> bool:
        stage = self.some_stage()
        return (
            stage is not None
            and not self.cluster.call(
                "scancel", "--signal=USR2", job_of(self.root, stage), check=False
            ).returncode
        )

    def worker_hangs(self) -> bool:
        stage = self.some_stage()
        if stage is None:
            return False
        process = worker_of(self.root / "stages" / stage)
        send(process, signal.SIGSTOP)
        time.sleep(self.random.uniform(1, 4))
        send(process, signal.SIGCONT)
        return True

    def srun_killed(self) -> bool:
        """The process of the job script that waits for the worker."""
        victims = []
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                words = (folder / "cmdline").read_bytes()
                if words.startswith(b"srun") and str(self.root).encode() in words:
                    victims.append(int(folder.name))
        if not victims:
            return False
        send(self.random.choice(victims), signal.SIGKILL)
        return True

    def job_requeued(self) -> bool:
        stage = self.some_stage()
        return stage is not None and self.scontrol("requeue", job_of(self.root, stage))

    def job_preempted(self) -> bool:
        words = ("-p", "urgent", "-N1", "--exclusive", "-o", "/dev/null", "--wrap", "sleep 2")
        return self.cluster.call("sbatch", *words, check=False).returncode == 0

    def job_suspended(self) -> bool:
        stage = self.some_stage()
        job = None if stage is None else job_of(self.root, stage)
        if job is None or not self.scontrol("suspend", job):
            return False
        time.sleep(self.random.uniform(1, 4))
        self.scontrol("resume", job)
        return True

    def job_held(self) -> bool:
        waiting = [s["job_id"] for s in self.statuses().values() if s["state"] == "queued" and s["job_id"]]
        if not waiting or not self.scontrol("hold", job := self.random.choice(waiting)):
            return False
        time.sleep(self.random.uniform(1, 4))
        self.scontrol("release", job)
        return True

    def controller_killed(self) -> bool:
        self.cluster.kill("slurmctld")
        time.sleep(self.random.uniform(0, 3))
        self.cluster.call("slurmctld")
        wait_for(lambda: self.cluster.call("squeue", check=False).returncode == 0, 60)
        return True

    def daemon_killed(self) -> bool:
        node = self.random.choice(["node1", "node2"])
        self.cluster.kill(f"slurmd.{node}")
        time.sleep(self.random.uniform(0, 3))
        self.cluster.call("slurmd", "-N", node)
        return True

    def node_drained(self) -> bool:
        node = self.random.choice(["node1", "node2"])
        self.scontrol("update", f"NodeName={node}", "State=DRAIN", "Reason=chaos")
        time.sleep(self.random.uniform(1, 5))
        return self.scontrol("update", f"NodeName={node}", "State=RESUME")

    def node_lost(self) -> bool:
        node = self.random.choice(["node1", "node2"])
        self.scontrol("update", f"NodeName={node}", "State=DOWN", "Reason=chaos")
        time.sleep(self.random.uniform(1, 5))
        return self.scontrol("update", f"NodeName={node}", "State=RESUME")

    def submitted_again(self) -> bool:
        self.submit()
        return True

    def submit_killed(self) -> bool:
        """Killed at some moment; what it left is found by whoever comes next."""
        words = [sys.executable, "-m", "cad.cli", "submit", self.file, "--profile", self.profile]
        process = subprocess.Popen(
            [str(word) for word in (*words, "--root", self.root)],
            env={**os.environ, **self.cluster.environment},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        time.sleep(self.random.uniform(0.5, 6))
        send(process.pid, signal.SIGKILL)
        process.wait()
        return True

    def notes_lost(self) -> bool:
        notes = sorted((self.root / "stages").glob("*/progress.json"))
        if not notes:
            return False
        self.random.choice(notes).unlink(missing_ok=True)
        return True

    def checkpoint_damaged(self) -> bool:
        """A bit of the newest checkpoint: the one before it is taken."""
        files = sorted((self.root / "stages").glob("train-*/checkpoints/*/state.safetensors"))
        files = [file for file in files if not (file.parents[2] / "DONE").exists()]
        if not files:
            return False
        with contextlib.suppress(OSError, IndexError):
            file = self.random.choice(files)
            data = bytearray(file.read_bytes())
            data[self.random.randrange(len(data))] ^= 1 << self.random.randrange(8)
            file.write_bytes(data)
        return True

    FAULTS: tuple[Fault, ...] = (
        worker_killed, worker_terminated, worker_warned, worker_hangs, srun_killed, job_requeued,
        job_preempted, job_suspended, job_held, controller_killed, daemon_killed, node_drained, node_lost,
        submitted_again, submit_killed, notes_lost, checkpoint_damaged,
    )  # fmt: skip

    # The run

    def submit(self) -> None:
        self.cluster.cad("submit", self.file, "--profile", self.profile, "--root", self.root)

    def jobs(self) -> list[dict]:
        """The note of the job that ran each stage last."""
        return [json.loads(file.read_text()) for file in (self.root / "stages").glob("*/job.json")]

    def done(self) -> bool:
        stages = self.statuses()
        wrong = {n: s["reason"] for n, s in stages.items() if s["state"] in ("failed", "dead")}
        assert not wrong, wrong
        return all(stage["state"] == "done" for stage in stages.values())

    def done_or_released(self) -> bool:
        """Slurm holds a task whose node's daemon dies while it starts it: a person has to say go on."""
        if any(status["reason"] == LAUNCH_FAILED for status in self.statuses().values()):
            self.submit()
            self.commands += 1
        return self.done()

    def run(self, seconds: float, every: float) -> None:
        """Faults at random moments for so many seconds, then peace until the sweep ends."""
        self.submit()
        end = time.monotonic() + seconds
        while time.monotonic() < end and not self.done():
            fault = self.random.choice(self.FAULTS)
            if fault(self):
                self.counts[fault.__name__] += 1
                self.log(f"{sum(self.counts.values())}: {fault.__name__}")
            time.sleep(self.random.expovariate(1 / every))
        wait_for(self.done_or_released, 900, every=2)
        self.cluster.settle()

    def check(self, undisturbed: Path) -> None:
        """The same numbers; every stage's job ended well; no update twice in the metrics."""
        self.cluster.cad("report", self.file, "--root", self.root, "--no-figures")
        ours, theirs = (
            json.loads((root / "chaos/report/report.json").read_text())["fingerprint"]
            for root in (self.root, undisturbed)
        )
        assert ours == theirs, (ours, theirs)
        # A task that is requeued when its stage is done already finds that, and is done again at once.
        noted = events(self.root / "chaos/jobs")
        done = {job for job, told in noted.items() if "done" in told}
        assert {job["job_id"] for job in self.jobs()} <= done, noted
        for metrics in (self.root / "stages").glob("train-*/metrics.jsonl"):
            steps = [json.loads(line)["step"] for line in metrics.read_text().splitlines()]
            assert steps == [0, *range(50, 1501, 50)], (metrics, steps)


def undisturbed(folder: Path) -> Path:
    """The sweep, run with `cad run`."""
    file = folder / "chaos.yaml"
    file.write_text(SWEEP)
    done = run_cli(["run", str(file), "--root", str(folder / "alone"), "--no-figures"])
    assert done.returncode == 0, done.stderr
    return folder / "alone"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--every", type=float, default=4, help="mean seconds between two faults")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="cad-chaos-"))
    alone = undisturbed(folder)
    cluster = Cluster(folder / "home", folder / "profile.yaml")
    cluster.call(TESTCLUSTER / "up")
    try:
        chaos = Chaos(cluster, folder, options.seed, lambda line: sys.stdout.write(f"{line}\n"))
        chaos.run(60 * options.minutes, options.every)
        chaos.check(alone)
    finally:
        cluster.call(TESTCLUSTER / "down", "--delete")
    faults = ", ".join(f"{name} {n}" for name, n in sorted(chaos.counts.items()))
    sys.stdout.write(f"{sum(chaos.counts.values())} faults of {len(chaos.counts)} kinds: {faults}\n")
    sys.stdout.write("same fingerprint; every job ended well; no update twice\n")
    sys.stdout.write(f"commands that were needed after a task could not be started: {chaos.commands}\n")


if __name__ == "__main__":
    main()
