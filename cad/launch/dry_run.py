"""``cad submit --dry-run``: the plan, the job scripts and Slurm's verdict, without submitting."""

from __future__ import annotations

import functools
import shutil
import sys

from cad.experiments.opened import OpenExperiment
from cad.launch.arrays import dependency
from cad.launch.profile import Profile
from cad.launch.queue import has_slurm, test_only
from cad.launch.script import Place, job_script
from cad.launch.submit import Plan, job_name
from cad.storage import write_json, write_text


def dry_run(experiment: OpenExperiment, profile: Profile, plan: Plan) -> str:
    """Write the job scripts and the resolved cells of a plan, and show them with Slurm's verdict.

    What is submitted differs in two things alone: the folder of the submission, and the numbers of
    the jobs that others wait for.
    """
    place = Place(experiment.folder / "jobs" / "dry-run", experiment.root, sys.executable)
    shutil.rmtree(place.folder, ignore_errors=True)
    cells = place.folder / "experiment.json"
    write_json(cells, experiment.record())
    labels = {stage.name: cell for cell in experiment.cells for stage in cell.stages}
    lines = [f"{len(experiment.cells)} cells, resolved: {cells}"]
    ids = [f"JOB{number}" for number in range(1, len(plan.arrays) + 1)]
    for number, array in enumerate(plan.arrays):
        make = functools.partial(
            job_script, profile, array.kind, job_name(experiment, array.kind), place, array.scale
        )
        text = make(dependency(array, plan.arrays, ids), len(array.stages))
        file = place.folder / f"{number + 1}-{array.kind}.sh"
        write_text(file, text)
        # The jobs that it would wait for do not exist, so its verdict is on the rest.
        verdict = test_only(make(None, len(array.stages))) if has_slurm() else "no sbatch here to ask"
        lines += [f"{ids[number]}: {file}", *(f"    {line}" for line in text.splitlines())]
        lines.append(f"sbatch --test-only: {verdict}")
        for index, stage in enumerate(array.stages):
            cell = labels[stage.name]
            lines.append(f"  task {index}: {stage.name}  {cell.label}, seed {cell.config.seed}")
    return "\n".join([*lines, *left_out(plan)])


def left_out(plan: Plan) -> list[str]:
    """A line for every reason why stages are not submitted."""
    done = sum(status.state == "done" for status in plan.statuses.values())
    unknown = sum(status.state == "unknown" for status in plan.statuses.values())
    lines = [f"done: {done} of {len(plan.statuses)} stages"] if done else []
    if plan.joined:
        lines.append(f"joined: {len(plan.joined)} stages that are queued or running already")
    if unknown:
        lines.append(f"left alone: {unknown} stages that were submitted; there is no Slurm here to ask")
    if plan.left_over:
        lines.append(
            f"not submitted: {len(plan.left_over)} stages, for which your limit of jobs (MaxSubmitJobs) "
            "leaves no room; submit again when some jobs have ended"
        )
    return lines
