"""Trainings over real ranks: processes that form a group, train small configs and write files."""

from __future__ import annotations

import importlib
import json
import multiprocessing
import subprocess
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from cad.training.metrics import read_metrics

# torch and DeepSpeed take most of a short rank's time to import: one process does, and forks the ranks.
_RANKS = multiprocessing.get_context("forkserver")
_RANKS.set_forkserver_preload(["engine_rank"])


class RankProcess:
    """One rank, with the methods of :class:`subprocess.Popen` that tests use."""

    def __init__(self, jobs_file: Path, rank: int) -> None:
        # Here, as it imports DeepSpeed: every worker of pytest collects this file.
        run = importlib.import_module("engine_rank").run
        self._output = jobs_file.with_name(f"{jobs_file.stem}-{rank}.txt")
        self._process = _RANKS.Process(target=run, args=(str(jobs_file), str(rank), str(self._output)))
        self._process.start()

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    @property
    def pid(self) -> int:
        return self._process.pid

    def poll(self) -> int | None:
        return self._process.exitcode

    def kill(self) -> None:
        self._process.kill()

    def wait(self, timeout: float | None = None) -> int | None:
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired(["rank"], timeout or 0)
        return self._process.exitcode

    def communicate(self, timeout: float) -> tuple[str, str]:
        self.wait(timeout)
        return self._output.read_text(), ""


@dataclass(frozen=True)
class Job:
    """One training; in update ``stop_at``, ``stopped_rank`` is asked to stop."""

    name: str
    config: Any
    pretrain: bool = False
    stop_at: int = -1
    stopped_rank: int = 1


class Trainings:
    """Runs jobs and reads their files."""

    def __init__(self, folder: Path, arrays: Path) -> None:
        self.folder = folder
        self._arrays = arrays

    def start(self, size: int, jobs: list[Job]) -> list[RankProcess]:
        file = self.folder / f"{uuid.uuid4().hex}.json"
        listed = [
            {
                "folder": str(self.folder / job.name),
                "config": job.config.model_dump(mode="json"),
                "pretrain": job.pretrain,
                "stop_at": job.stop_at,
                "stopped_rank": job.stopped_rank,
            }
            for job in jobs
        ]
        shared = {"size": size, "folder": str(self.folder), "arrays": str(self._arrays), "jobs": listed}
        file.write_text(json.dumps(shared))
        return [RankProcess(file, rank) for rank in range(size)]

    def run(self, size: int, jobs: list[Job]) -> None:
        ranks = self.start(size, jobs)
        outputs = [rank.communicate(timeout=1500)[0] for rank in ranks]
        assert [rank.returncode for rank in ranks] == [0] * size, "\n".join(o[-2000:] for o in outputs)

    def records(self, name: str) -> list[dict[str, float]]:
        return [
            {key: value for key, value in record.items() if not key.endswith("_per_second")}
            for record in read_metrics(self.folder / name / "metrics.jsonl")
        ]

    def weights(self, name: str, rank: int = 0) -> dict[str, torch.Tensor]:
        return safetensors.torch.load_file(self.folder / name / f"weights-{rank}.safetensors")

    def state(self, name: str) -> dict[str, torch.Tensor]:
        newest = max((self.folder / name / "checkpoints").glob("[0-9]*"))
        return safetensors.torch.load_file(newest / "state.safetensors")


@pytest.fixture(scope="session")
def new_trainings(toy_histories, tmp_path_factory) -> Callable[[], Trainings]:
    def make() -> Trainings:
        folder = tmp_path_factory.mktemp("trainings")
        arrays = {k: getattr(toy_histories, k) for k in ("observations", "actions", "rewards")}
        np.savez(folder / "arrays.npz", **arrays)
        return Trainings(folder, folder / "arrays.npz")

    return make


@pytest.fixture(scope="session")
def job() -> type[Job]:
    """``job(name, config, pretrain=False, stop_at=-1, stopped_rank=1)``."""
    return Job
