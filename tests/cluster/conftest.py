"""A real Slurm cluster on this machine, and an experiment to disturb on it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).parents[2]
TESTCLUSTER = REPOSITORY / "slurm" / "testcluster"
MISSING = [name for name in ("munged", "slurmctld", "slurmd", "sbatch") if shutil.which(name) is None]
WHY_NOT = (
    f"needs Slurm ({', '.join(MISSING)} not installed: apt-get install slurm-wlm munge)"
    if MISSING
    else "needs root: the daemons start jobs as other users"
    if os.geteuid() != 0
    else ""
)

GRID = """
name: grid
base:
  env: {size: 4, horizon: 8, n_heldout: 3, n_validation: 0}
  source: {n_streams: 4, steps_per_stream: 160, n_steps: 40, batch_size: 80, n_epochs: 20}
  model: {n_embd: 16, n_layer: 1, n_head: 2, encoder_n_layer: 1, n_transit: 16, n_latent: 2}
  train: {n_updates: 300, batch_size: 8, num_warmup_steps: 5, log_every: 5, checkpoint_every: 50,
          validate_every: 0, max_episode_gap: 2, watchdog_share: null}
  evaluation: {n_episodes: 4, n_rollouts: 2}
arms:
  - name: CompressedAD
    grid: {model.max_compression_depth: [0, 1, 2]}
seeds: [0, 1]
"""

PROFILE = """
resources: {partition: debug, minutes: 20, memory_gb: 1}
signal_seconds: 30
"""


@dataclass
class Cluster:
    """The cluster, and the command line on it."""

    home: Path
    profile: Path

    @property
    def environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "SLURM_CONF": str(self.home / "etc/slurm.conf"),
            "CAD_TESTCLUSTER": str(self.home),
            "COLUMNS": "250",
            "OMP_NUM_THREADS": "1",
        }

    def call(self, *words: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [str(word) for word in words],
            capture_output=True,
            text=True,
            env=self.environment,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0 or not check, done.stdout + done.stderr
        return done

    def cad(self, *words: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
        return self.call(sys.executable, "-m", "cad.cli", *words, check=check)

    def cells(self, file: Path, root: Path) -> list[dict[str, Any]]:
        return json.loads(self.cad("status", file, "--root", root, "--json").stdout)

    def stages(self, file: Path, root: Path, kind: str | None = None) -> dict[str, dict[str, Any]]:
        """Stage name to its status."""
        return {
            stage["stage"]: stage
            for cell in self.cells(file, root)
            for stage in cell["stages"]
            if kind in (None, stage["kind"])
        }

    def pid(self, daemon: str) -> int:
        return int((self.home / "run" / f"{daemon}.pid").read_text())

    def kill(self, daemon: str) -> None:
        """SIGKILL, and wait until it is gone."""
        process = self.pid(daemon)
        os.kill(process, signal.SIGKILL)
        wait_for(lambda: not Path(f"/proc/{process}").exists() or is_zombie(process), 10)

    def settle(self) -> None:
        """Until nothing is queued or running but the stand-in tasks."""

        def quiet() -> bool:
            names = self.call("squeue", "-h", "-o", "%j").stdout.split()
            return all(name == "stand-in" for name in names)

        wait_for(quiet, 60)


def is_zombie(process: int) -> bool:
    with contextlib.suppress(OSError, IndexError):
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    return True


def wait_for(condition: Callable[[], object], seconds: float, every: float = 0.7) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come about in time"
        time.sleep(every)


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    if WHY_NOT:
        pytest.skip(WHY_NOT)
    folder = tmp_path_factory.mktemp("cluster")
    (folder / "profile.yaml").write_text(PROFILE)
    cluster = Cluster(folder / "home", folder / "profile.yaml")
    cluster.call(TESTCLUSTER / "up", "--max-array-size", "1001")
    try:
        yield cluster
    finally:
        cluster.call(TESTCLUSTER / "down", "--delete")


@pytest.fixture(scope="session")
def image() -> Path | None:
    """The Apptainer image to run a grid in, where one is given."""
    given = os.environ.get("CAD_TEST_IMAGE")
    return Path(given).absolute() if given else None


@pytest.fixture(scope="session")
def image_profile(image: Path | None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cluster's profile, with that image."""
    file = tmp_path_factory.mktemp("profile") / "profile.yaml"
    file.write_text(PROFILE + (f"image: {image}\n" if image else ""))
    return file


@pytest.fixture(scope="session")
def grid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The experiment file: six cells."""
    file = tmp_path_factory.mktemp("experiment") / "grid.yaml"
    file.write_text(GRID)
    return file


@pytest.fixture(scope="session", name="wait_for")
def wait_for_fixture() -> Callable[..., None]:
    """``wait_for(condition, seconds)``."""
    return wait_for


@pytest.fixture(scope="session")
def undisturbed(grid: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same experiment run with `cad run`."""
    root = tmp_path_factory.mktemp("undisturbed")
    command = [sys.executable, "-m", "cad.cli", "run", str(grid), "--root", str(root), "--inline"]
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    return root
