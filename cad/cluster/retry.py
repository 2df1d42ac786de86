"""``cad retry``: the profile of the last submission, and more memory or time for what ran out of them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from cad.cluster.arrays import ResourceMultiplier
from cad.cluster.profile import Profile
from cad.cluster.status import StageStatus
from cad.cluster.submit import MultiplierFor
from cad.config import from_mapping
from cad.errors import CadError, UsageError
from cad.experiments.plan.cells import distinct_stages
from cad.experiments.plan.directory import StageDirectory
from cad.experiments.plan.experiment import Experiment
from cad.experiments.plan.job_records import OUT_OF_MEMORY, SUBMISSION_FILE, read_submission
from cad.experiments.plan.stage import Stage


def last_submission(experiment: Experiment) -> tuple[Profile, str]:
    """The profile that the experiment was last submitted with, and to which clusters.

    Raises :class:`CadError` if it never was.
    """
    name = experiment.config.name
    notes = [StageDirectory(experiment.root, stage.name).job() for stage in distinct_stages(experiment.cells)]
    # What Slurm refused has left a record, but no jobs.
    ours = [note for note in notes if note is not None and note.experiment == name]
    if ours:
        file = experiment.root / max(ours, key=lambda note: note.submitted).folder / SUBMISSION_FILE
    else:
        records = sorted((experiment.folder / "jobs").glob(f"*-slurm/{SUBMISSION_FILE}"))
        if not records:
            raise CadError(f"{name} was never submitted; use `cad submit` with a --profile")
        file = records[-1]
    submission = read_submission(file.parent)
    if submission is None:
        raise CadError(
            f"{file} is missing, damaged or from another version of cad; use `cad submit` with a --profile"
        )
    return from_mapping(Profile, submission.profile, str(file)), submission.clusters or ""


def multiplier_for(root: Path, profile: Profile, memory: float, minutes: float) -> MultiplierFor:
    """More memory for stages that ran out of it, more time for those that ran out of that.

    Factors multiply over retries: a stage keeps what an earlier retry, or its own requeues, gave it.  A
    stage that waits for one that ran out gets as much more: it works on the same model.
    """

    def multiplier(stage: Stage, statuses: Mapping[str, StageStatus]) -> ResourceMultiplier:
        note = StageDirectory(root, stage.name).job()
        earlier = ResourceMultiplier()
        if note is not None:
            shortages = sum(event.event == OUT_OF_MEMORY for event in note.attempts(root))
            own = profile.retry.out_of_memory
            requeued = own.memory ** min(shortages, own.times)
            earlier = ResourceMultiplier(note.memory * requeued, note.minutes)
        concerned = [statuses[one.name] for one in (stage, *stage.inputs)]
        return ResourceMultiplier(
            earlier.memory * (memory if any(one.out_of_memory for one in concerned) else 1),
            earlier.minutes * (minutes if any(one.timed_out for one in concerned) else 1),
        )

    return multiplier


def factor(text: str, option: str) -> float:
    """``x2`` as 2.0.  Raises :class:`UsageError` otherwise."""
    if not re.fullmatch(r"x\d+(\.\d+)?", text) or not float(text[1:]):
        raise UsageError(f"{option} {text}: expected a factor such as x2 or x1.5")
    return float(text[1:])
