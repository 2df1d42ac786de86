"""``cad submit --dry-run``: write the job scripts, print the plan and Slurm's verdict; submit nothing."""

from __future__ import annotations

import functools
import shutil
import sys

from cad.cluster.arrays import Task, dependency
from cad.cluster.profile import Profile
from cad.cluster.queue import has_slurm, test_only
from cad.cluster.script import SubmissionPaths, job_script
from cad.cluster.submit import Plan, job_name, room_of_task
from cad.experiments.plan.experiment import Experiment
from cad.experiments.run.pack_plan import Room, host_bytes, processes_of
from cad.storage import write_json, write_text


def dry_run(experiment: Experiment, profile: Profile, plan: Plan) -> tuple[str, list[str]]:
    """Write the job scripts and the resolved cells of a plan; return what they ask for, and Slurm's refusals.

    A real submission differs only in the folder of the submission and in the job ids of dependencies.
    """
    paths = SubmissionPaths(experiment.folder / "jobs" / "dry-run", experiment.root, sys.executable)
    shutil.rmtree(paths.folder, ignore_errors=True)
    cells = paths.folder / "experiment.json"
    write_json(cells, experiment.record())
    labels = {stage.name: cell for cell in experiment.cells for stage in cell.stages}
    n = len(experiment.cells)
    lines = [f"{n} cell{'' if n == 1 else 's'}, resolved: {cells}"]
    refused: dict[str, list[str]] = {}
    ids = [f"JOB{number}" for number in range(1, len(plan.arrays) + 1)]
    for number, array in enumerate(plan.arrays):
        make = functools.partial(
            job_script, profile, array.kind, job_name(experiment, array.kind), paths, array.multiplier
        )
        label = f"{number + 1}-{array.kind}"
        make = functools.partial(
            make,
            n=len(array.tasks),
            label=label,
            throttle=array.throttle,
            files=array.files,
            code=array.code_folders,
        )
        text = make(depends=dependency(array, plan.arrays, ids))
        file = paths.folder / f"{label}.sh"
        write_text(file, text)
        # The jobs that it would wait for do not exist: sbatch judges the script without them.
        verdict = "no sbatch on this machine"
        if has_slurm():
            accepted, verdict = test_only(make(depends=None))
            if not accepted:
                refused.setdefault(verdict, []).append(array.kind)
                verdict = "refused"
        options = [line for line in text.splitlines() if line.startswith("#SBATCH ")]
        lines += [f"{ids[number]}: {file} (the whole script)", *(f"    {line}" for line in options)]
        lines.append(f"sbatch --test-only: {verdict}")
        for index, task in enumerate(array.tasks):
            if array.packed:
                lines.append(f"  task {index}: {in_words(task, room_of_task(profile))}")
            for stage in task:
                cell = labels[stage.name]
                place = "   " if array.packed else f"task {index}:"
                lines.append(f"  {place} {stage.name}  {cell.label}, seed {cell.config.seed}")
    return "\n".join([*lines, *left_out(plan)]), [
        f"sbatch refuses the jobs of {', '.join(dict.fromkeys(kinds))}: {why}"
        for why, kinds in refused.items()
    ]


def in_words(pack: Task, room: Room) -> str:
    """A pack, the processes that work on it, and the memory that those take which run side by side."""
    processes = processes_of(pack, room)
    if len(processes) == 1:
        return f"a pack of {len(pack)}"
    n = room.at_a_time(processes)
    taken = host_bytes(processes[:n], gpu=room.gpu) / 2**30
    few = "; more would exceed its memory" if n < min(room.cores, len(processes)) else ""
    return (
        f"a pack of {len(pack)} in {len(processes)} processes, {n} side by side, about {taken:.1f} GiB{few}"
    )


def left_out(plan: Plan) -> list[str]:
    """One line for each reason why stages are not submitted."""
    done = sum(status.state == "done" for status in plan.statuses.values())
    unknown = sum(status.state == "unknown" for status in plan.statuses.values())
    lines = [f"done: {done} of {len(plan.statuses)} stages"] if done else []
    if plan.joined:
        lines.append(f"joined: {len(plan.joined)} stages that are queued or running already")
    if unknown:
        lines.append(f"left alone: {unknown} stages that were submitted; this machine has no Slurm to ask")
    if plan.left_over:
        lines.append(
            f"not submitted: {len(plan.left_over)} stages, because of your limit of jobs (MaxSubmitJobs); "
            "submit again when some jobs have ended"
        )
    return lines
