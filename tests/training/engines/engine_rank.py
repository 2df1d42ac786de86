"""One rank of the engines' tests: a process that trains all of a file's jobs, one after the other."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import traceback
from pathlib import Path

import accelerate  # noqa: F401 - imported once, for all ranks
import deepspeed as _  # noqa: F401
import numpy as np
import safetensors.torch
import torch

from cad.histories.sampler import HistoryArrays, WindowSampler
from cad.interrupt import InterruptedRun, StopFlag
from cad.schema import Config
from cad.training.engines import deepspeed
from cad.training.learner import build_pretraining, build_training
from cad.training.ranks import SINGLE_PROCESS, RankAssignment, Ranks
from cad.training.rendezvous import joined


class StoppingSampler:
    """Requests a stop when the batch of update ``at`` is drawn."""

    def __init__(self, sampler: WindowSampler, at: int, stop: StopFlag) -> None:
        self.sampler, self.at, self.stop = sampler, at, stop

    def batch(self, update, *where):
        if update == self.at:
            self.stop.request()
        return self.sampler.batch(update, *where)


def weight_sum(model: torch.nn.Module) -> float:
    return float(sum(p.detach().abs().sum() for p in model.parameters()))


def train_one(job: dict, arrays: HistoryArrays, ranks: Ranks) -> None:
    config = Config.model_validate(job["config"])
    folder, stop = Path(job["folder"]), StopFlag()
    learner = (build_pretraining if job["pretrain"] else build_training)(config, arrays)
    at = job["stop_at"] if ranks.rank == job["stopped_rank"] else -1
    learner = dataclasses.replace(learner, sampler=StoppingSampler(learner.sampler, at, stop))
    model = learner.trained
    try:
        learner.fit(
            folder,
            run_id="run",
            device=torch.device("cpu"),
            stop=stop,
            validate=lambda: float(sum(p.detach().abs().sum() for p in model.parameters())),
            ranks=ranks,
        )
    except InterruptedRun as stopped:
        (folder / f"stopped-{ranks.rank}").write_text(str(stopped))
        return
    # Every rank ends with the same unsharded weights.
    safetensors.torch.save_file(dict(model.state_dict()), folder / f"weights-{ranks.rank}.safetensors")


def main(jobs_file: str, rank: str) -> None:
    torch.set_num_threads(1)
    deepspeed.UNSHARDED_BELOW = 20  # so that ZeRO-3 shards even these small weights
    jobs = json.loads(Path(jobs_file).read_text())
    arrays = np.load(jobs["arrays"])
    histories = HistoryArrays(
        **{k: arrays[k] for k in ("observations", "actions", "rewards")}, horizon=5, n_actions=5
    )
    if jobs["size"] == 1:
        for job in jobs["jobs"]:
            train_one(job, histories, SINGLE_PROCESS)
        return
    assignment = RankAssignment(int(rank), jobs["size"], int(rank), "127.0.0.1", Path(jobs_file).stem)
    with joined(assignment, Path(jobs["folder"]), StopFlag(), "cpu") as ranks:
        for job in jobs["jobs"]:
            train_one(job, histories, ranks)


def run(jobs_file: str, rank: str, output: str) -> None:
    """Begin here in a new process, with everything imported; ``output`` takes what it prints."""
    with Path(output).open("w", buffering=1) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        try:
            main(jobs_file, rank)
        except Exception:
            traceback.print_exc()
            sys.exit(1)
