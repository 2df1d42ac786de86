"""Estimate what running an experiment on this machine takes."""

from __future__ import annotations

from cad.experiments.cost.calibration import measured_rates
from cad.experiments.cost.estimate import Allocation, Estimate, estimate
from cad.experiments.plan.cells import distinct_stages
from cad.experiments.plan.directory import StageDirectory
from cad.experiments.plan.experiment import Experiment
from cad.experiments.plan.stage import StageKind, expected_steps
from cad.experiments.run.resources import pick_device


def run_cost(
    experiment: Experiment,
    workers: int,
    device: str,
    first: StageKind = "histories",
    last: StageKind = "evaluate",
) -> Estimate | None:
    """What running the stages of kinds ``first`` to ``last`` would take; None where all are done."""
    stages = [
        stage
        for stage in distinct_stages(experiment.cells, first, last)
        if not StageDirectory(experiment.root, stage.name).done
    ]
    if not stages:
        return None
    kind = pick_device(device).type
    shared = Allocation(device=kind, gpus=int(kind == "cuda"))
    # A collection has all workers, and nothing runs beside it.
    alone = Allocation(cores=workers, workers=workers, alone=True)
    stages.sort(key=expected_steps, reverse=True)  # as the runner takes them
    return estimate(
        stages,
        lambda stage: alone if stage.kind == "histories" else shared,
        measured_rates(experiment.root, stages, lambda _: kind),
        {"": workers},
    )
