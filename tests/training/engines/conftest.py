"""Trainings over real ranks: processes that form a group, train small configs and write files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
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

RANK = Path(__file__).with_name("rank.py")


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

    def start(self, size: int, jobs: list[Job]) -> list[subprocess.Popen[str]]:
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
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        return [
            subprocess.Popen(
                [sys.executable, str(RANK), str(file), str(rank)],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                env=environment,
            )
            for rank in range(size)
        ]

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
