"""One rank of the engines' tests: `python rank.py JOBS.json RANK` trains all of JOBS, one after the other."""

from __future__ import annotations

import json
import sys
import traceback
from pathlib import Path

import numpy as np
import safetensors.torch
import torch

from cad.config.schema import Config
from cad.histories.sampler import HistoryArrays, WindowSampler
from cad.interrupt import InterruptedRun, StopFlag
from cad.models import CompressedAD, EncoderPretraining, build_model
from cad.models.reconstruction import WithReconstruction
from cad.training.engines import deepspeed
from cad.training.loop import train
from cad.training.ranks import SINGLE_PROCESS, Ranks
from cad.training.reconstruction import AuxiliaryObjective, PretrainingObjective, pretraining_config
from cad.training.regions import model_objective
from cad.training.rendezvous import RankAssignment, joined


class StoppingSampler(WindowSampler):
    """Asks for a stop when the batch of update ``at`` is drawn."""

    at, stop = -1, StopFlag()

    def batch(self, update, part=0, parts=1):
        if update == self.at:
            self.stop.request()
        return super().batch(update, part, parts)


def train_one(job: dict, arrays: HistoryArrays, ranks: Ranks) -> None:
    config = Config.model_validate(job["config"])
    folder, stop = Path(job["folder"]), StopFlag()
    segments = None
    if job["pretrain"]:
        config = pretraining_config(config)
        segments = config.model.max_compression_depth
    torch.manual_seed(config.seed)
    if job["pretrain"]:
        model, objective = EncoderPretraining(config), PretrainingObjective(config)
    else:
        model, objective = build_model(config), model_objective(config)
        if config.train.reconstruction_weight and isinstance(model, CompressedAD):
            model, objective = WithReconstruction(model, config), AuxiliaryObjective(config)
    sampler = StoppingSampler(config, arrays, segments)
    if ranks.rank == job["stopped_rank"]:
        sampler.at, sampler.stop = job["stop_at"], stop
    try:
        train(
            config,
            model,
            sampler,
            folder,
            run_id="run",
            device=torch.device("cpu"),
            stop=stop,
            objective=objective,
            validate=(lambda model: float(sum(p.detach().abs().sum() for p in model.parameters()))),
            ranks=ranks,
        )
    except InterruptedRun as stopped:
        (folder / f"stopped-{ranks.rank}").write_text(str(stopped))
        return
    # Every rank ends with the same whole weights.
    safetensors.torch.save_file(dict(model.state_dict()), folder / f"weights-{ranks.rank}.safetensors")


def main(jobs_file: str, rank: str) -> None:
    torch.set_num_threads(1)
    deepspeed.WHOLE_BELOW = 20  # ZeRO-3 is to share out even these small weights
    jobs = json.loads(Path(jobs_file).read_text())
    arrays = np.load(jobs["arrays"])
    histories = HistoryArrays(**{k: arrays[k] for k in ("observations", "actions", "rewards")}, horizon=5)
    if jobs["size"] == 1:
        for job in jobs["jobs"]:
            train_one(job, histories, SINGLE_PROCESS)
        return
    assignment = RankAssignment(int(rank), jobs["size"], int(rank), "127.0.0.1", Path(jobs_file).stem)
    with joined(assignment, Path(jobs["folder"]), StopFlag(), "cpu") as ranks:
        for job in jobs["jobs"]:
            train_one(job, histories, ranks)


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except Exception:
        traceback.print_exc()
        sys.exit(1)
