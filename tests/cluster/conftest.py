"""A real Slurm cluster on this machine, and an experiment to disturb on it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from forked import run_cli
from workers import send, worker_of

from cad.evaluation.results import load_results
from cad.experiments.plan.experiment import open_experiment

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
  env: {size: 4, horizon: 8, n_tasks: 9, n_heldout: 3, n_validation: 0}
  source: {n_streams: 4, steps_per_stream: 160, n_steps: 40, batch_size: 80, n_epochs: 20}
  model: {n_embd: 16, n_layer: 1, n_head: 2, encoder_n_layer: 1, n_transit: 16, n_latent: 2}
  train: {n_updates: 300, batch_size: 8, num_warmup_steps: 5, log_every: 5, checkpoint_every: 50,
          validate_every: 0, max_episode_gap: 2, watchdog_share: null}
  evaluation: {n_episodes: 4, n_rollouts: 2}
arms:
  - name: CompressedAD
    grid: {model.max_compression_depth: [0, 1, 2]}
"""

Lock = Callable[[str], contextlib.AbstractContextManager[None]]

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
            env={**os.environ, **self.environment},
            timeout=240,
            check=False,
        )
        assert done.returncode == 0 or not check, done.stdout + done.stderr
        return done

    def cad(self, *words: str | Path, check: bool = True, **more: str) -> subprocess.CompletedProcess[str]:
        """The command line, with ``more`` variables in its environment."""
        done = run_cli([str(word) for word in words], environment={**self.environment, **more})
        fine = (0, 1, 3) if words[0] == "status" else (0,)
        assert done.returncode in fine or not check, done.stdout + done.stderr
        return done

    def fresh_cad(self, *words: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
        """The same in a process that imports everything itself, and finds its umask."""
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

        wait_for(quiet, 120)


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
def cluster(tmp_path_factory: pytest.TempPathFactory, one_at_a_time: Lock) -> Iterator[Cluster]:
    if WHY_NOT:
        pytest.skip(WHY_NOT)
    folder = tmp_path_factory.mktemp("cluster")
    (folder / "profile.yaml").write_text(PROFILE)
    cluster = Cluster(folder / "home", folder / "profile.yaml")
    with one_at_a_time("up"):  # both look for free ports
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
    """The experiment file: three cells."""
    file = tmp_path_factory.mktemp("experiment") / "grid.yaml"
    file.write_text(GRID)
    return file


@pytest.fixture
def one_cell(grid: Path, tmp_path: Path) -> Path:
    """The grid's first cell, trained in a moment."""
    settings = yaml.safe_load(grid.read_text())
    settings["arms"] = [{"name": "AD", "set": {"model.kind": "ad"}}]
    settings["seeds"] = [0]
    settings["base"]["train"]["n_updates"] = 100
    file = tmp_path / "one.yaml"
    file.write_text(yaml.safe_dump(settings | {"name": "one"}))
    return file


@pytest.fixture(scope="session", name="wait_for")
def wait_for_fixture() -> Callable[..., None]:
    """``wait_for(condition, seconds)``."""
    return wait_for


@pytest.fixture(scope="session")
def undisturbed(grid: Path, shared: Path, one_at_a_time: Lock) -> Path:
    """The same experiment run with `cad run`."""
    root = shared / "undisturbed"
    with one_at_a_time("undisturbed"):
        if not (root / "grid/report/report.json").exists():
            done = run_cli(["run", str(grid), "--root", str(root), "--inline", "--no-figures"])
            assert done.returncode == 0, done.stderr
    return root


NO_ACCOUNTING = [name for name in ("slurmdbd", "mariadbd", "sacctmgr") if shutil.which(name) is None]


@pytest.fixture(scope="session")
def accounted(one_at_a_time: Lock) -> Iterator[Cluster]:
    """A cluster with accounting, beside the one without."""
    if WHY_NOT or NO_ACCOUNTING:
        missing = f"not installed: {', '.join(NO_ACCOUNTING)}; apt-get install slurmdbd mariadb-server"
        pytest.skip(WHY_NOT or f"needs Slurm's accounting ({missing})")
    # Users other than root come here, who may not look into pytest's folders.
    folder = Path(tempfile.mkdtemp(prefix="cad-accounted-", dir="/tmp"))
    folder.chmod(0o755)
    (folder / "profile.yaml").write_text(PROFILE)
    cluster = Cluster(folder / "home", folder / "profile.yaml")
    with one_at_a_time("up"):
        cluster.call(TESTCLUSTER / "up", "--accounting")
    try:
        yield cluster
    finally:
        cluster.call(TESTCLUSTER / "down", "--delete")
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def with_histories(undisturbed: Path) -> Callable[[Path], Path]:
    """``with_histories(root)``: a folder of runs whose histories are there already."""

    def link(root: Path) -> Path:
        (histories,) = (undisturbed / "stages").glob("histories-*")
        (root / "stages").mkdir(parents=True)
        (root / "stages" / histories.name).symlink_to(histories)
        return root

    return link


class Pauser(threading.Thread):
    """Stops a training in its middle, so that its time limit comes while it is there.

    With ``until_warned`` it goes on once the signal before the limit waits for it, else when Slurm,
    which wakes what it ends, comes to that.
    """

    def __init__(self, stage: Path, attempts: Path, *, until_warned: bool) -> None:
        super().__init__(daemon=True)
        self._stage, self._attempts, self._until_warned = stage, attempts, until_warned

    def run(self) -> None:
        """Until it has gone on, or Slurm has ended it for good."""
        paused = None
        while not self._is_over():
            if paused is None:
                paused = self._worker()
                if paused is not None:
                    send(paused, signal.SIGSTOP)
            elif self._until_warned and warned(paused):
                send(paused, signal.SIGCONT)
                return
            time.sleep(0.01)

    def _is_over(self) -> bool:
        noted = "".join(file.read_text() for file in self._attempts.glob("*-slurm/*.attempts"))
        return re.search("too-many-requeues|done", noted) is not None

    def _worker(self) -> int | None:
        """The process that trains, when it is past the first checkpoint."""
        with contextlib.suppress(OSError, ValueError, TypeError):
            done = json.loads((self._stage / "progress.json").read_text())["done"]
            worker = worker_of(self._stage)
            if done > 50 and str(self._attempts) in command_of(worker):
                return worker
        return None


def command_of(process: int) -> str:
    return Path(f"/proc/{process}/cmdline").read_text()


def warned(process: int) -> bool:
    """Whether SIGUSR2 waits for a stopped process; True too when it is gone."""
    with contextlib.suppress(OSError):
        text = Path(f"/proc/{process}/status").read_text()
        pending = [int(mask, 16) for mask in re.findall(r"^S(?:ig|hd)Pnd:\s*(\w+)", text, re.MULTILINE)]
        return any(mask >> (signal.SIGUSR2 - 1) & 1 for mask in pending)
    return True


@dataclass
class Limited:
    """A cell that meets its time limit: its experiment, its folder of runs, its stages' names."""

    file: Path
    root: Path
    train: str
    evaluate: str

    def same_results(self, undisturbed: Path) -> bool:
        files = (f"{self.train}/model.safetensors", f"{self.evaluate}/returns.h5")
        return all(
            contents(self.root / "stages" / file) == contents(undisturbed / "stages" / file) for file in files
        )


def contents(file: Path) -> bytes:
    """Of a model the file; of an evaluation its returns (its file also holds how long it took)."""
    return file.read_bytes() if file.suffix == ".safetensors" else load_results(file).returns.tobytes()


# What makes a worker deaf, like one that hangs in a library: Python reads it when it starts.
DEAF = """
import signal

told = (signal.SIGUSR2, signal.SIGTERM)
install = signal.signal
signal.signal = lambda number, handler: install(number, signal.SIG_IGN if number in told else handler)
for number in told:
    install(number, signal.SIG_IGN)
"""


@pytest.fixture(scope="session")
def limited(
    accounted: Cluster,
    grid: Path,
    with_histories: Callable[[Path], Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Limited]:
    """Two cells under a real limit of two minutes, which passes while other tests run.

    ``warned`` hears of it, saves and goes on.  ``deaf`` never comes to an end or a safe point: it is
    killed and may not be requeued.
    """
    folder = tmp_path_factory.mktemp("limited")
    (folder / "deaf").mkdir()
    (folder / "deaf/sitecustomize.py").write_text(DEAF)
    actual = {}
    for depth, name, requeues in ((0, "warned", 50), (1, "deaf", 0)):
        settings = yaml.safe_load(grid.read_text()) | {"name": name, "seeds": [0]}
        settings["arms"][0]["grid"] = {"model.max_compression_depth": [depth]}
        if name == "deaf":
            settings["base"]["train"]["n_updates"] = 10**8
        file, profile = folder / f"{name}.yaml", folder / f"{name}-profile.yaml"
        file.write_text(yaml.safe_dump(settings))
        profile.write_text(
            "resources: {minutes: 2, memory_gb: 1}\nsignal_seconds: 10\n"
            f"retry: {{saved: {{times: {requeues}}}}}\n"
            f"environment: {{PYTHONPATH: {folder / name}}}\n"
        )
        root = with_histories(folder / f"runs-{name}")
        cell = open_experiment(file, [], root).cells[0]
        actual[name] = Limited(file, root, cell.training.name, cell.evaluation.name)
        stage = root / "stages" / cell.training.name
        Pauser(stage, root / name / "jobs", until_warned=name == "warned").start()
        accounted.cad("submit", file, "--profile", profile, "--root", root)
    return actual
