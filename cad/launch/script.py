"""The job script, made by one pure function.

The script is submitit's own, with lines before and after the worker: the environment, and the
decision, on the host, whether the job is to run again.
"""

from __future__ import annotations

import shlex
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# The pure function behind submitit's executor; the version is pinned, and a test on a real
# cluster compares what it gives here with what was submitted.
from submitit.slurm.slurm import _make_sbatch_string

from cad.errors import UsageError
from cad.launch.arrays import Scale
from cad.launch.image import check_lines, enter
from cad.launch.profile import Profile
from cad.launch.records import ATTEMPTS_SUFFIX

# A worker's exit code for "saved what there was; start me again" (EX_TEMPFAIL).  The job script acts on
# it, since scontrol is not to be had in an image.
SAVED = 75
# A signal that came before the worker was ready for it; nothing is lost.
_BY_USR2, _BY_TERM = 128 + signal.SIGUSR2, 128 + signal.SIGTERM


@dataclass(frozen=True)
class Place:
    """Where a submission lives: its folder, the runs folder, the Python that submits."""

    folder: Path
    root: Path
    python: str

    @property
    def code(self) -> Path:
        """The frozen copy of the package that the jobs import."""
        return self.folder / "code"


def check_path(path: Path, what: str) -> None:
    """Refuse a path that sbatch or apptainer would read as something else than a path."""
    bad = sorted({repr(c) for c in str(path) if c in "%\\:,'\"`$" or not c.isprintable()})
    if bad:
        raise UsageError(f"{what} {str(path)!r} holds {' '.join(bad)}: sbatch cannot write there; rename it")


def python_command(profile: Profile, kind: str, place: Place) -> str:
    """The shell words that start Python: plain, or inside the image."""
    if profile.image is None:
        return shlex.quote(place.python)
    return enter(profile, profile.for_stage(kind).gpus, place.root)


def executor_parameters(
    profile: Profile, kind: str, job_name: str, place: Place, scale: Scale, depends: str | None
) -> dict[str, Any]:
    """Parameters of submitit's Slurm executor for one array."""
    asked = profile.for_stage(kind)
    extra: dict[str, bool | int | str] = {"requeue": True, "kill-on-invalid-dep": "yes", **asked.sbatch}
    parameters: dict[str, Any] = {
        "job_name": job_name,
        "partition": asked.partition,
        "account": asked.account,
        "qos": asked.qos,
        "constraint": asked.constraint,
        "time": max(1, round(asked.minutes * scale.minutes)),
        "mem": None if asked.memory_gb is None else f"{round(asked.memory_gb * scale.memory * 1024)}M",
        "nodes": asked.nodes,
        "ntasks_per_node": asked.tasks_per_node,
        "cpus_per_task": asked.cpus,
        "gpus_per_node": asked.gpus or None,
        "dependency": depends,
        "array_parallelism": asked.throttle,
        "signal_delay_s": profile.signal_seconds,
        "stderr_to_stdout": True,
        # False leaves out a line that is there by default: sbatch has no options with "=False".
        "additional_parameters": {key: value for key, value in extra.items() if value is not False},
        # Slurm 22.05 and later do not hand the job's CPUs on to its steps.
        # No --kill-on-bad-exit: ranks notice by themselves when one is gone, and a rank that saved and ends
        # first must not have the others killed, which would look like a crash.
        "srun_args": [f"--cpus-per-task={asked.cpus}"],
        "setup": _before(profile, asked.nodes, place),
        "teardown": _after(profile),
    }
    return {key: value for key, value in parameters.items() if value is not None}


def job_script(
    profile: Profile, kind: str, job_name: str, place: Place, scale: Scale, depends: str | None, n: int
) -> str:
    """The script that is submitted for an array of ``n`` tasks."""
    command = (
        f"{python_command(profile, kind, place)} -u -m submitit.core._submit {shlex.quote(str(place.folder))}"
    )
    parameters = executor_parameters(profile, kind, job_name, place, scale, depends)
    return _make_sbatch_string(
        command=command, folder=place.folder, map_count=n if n > 1 else None, **parameters
    )


def _before(profile: Profile, nodes: int, place: Place) -> list[str]:
    outside = "" if profile.image else "${PYTHONPATH:+:$PYTHONPATH}"
    return [
        "# Signals are for the worker; this script lives on to decide what comes next.",
        "trap : TERM USR2",
        *(f"module load {shlex.quote(module)}" for module in profile.modules),
        *(f"export {name}={shlex.quote(value)}" for name, value in profile.environment.items()),
        # The frozen copy comes first, before the folder that the job was submitted from.  An image has
        # its own packages; those of the machine outside are for another Python.
        f"export PYTHONPATH={shlex.quote(str(place.code))}{outside} PYTHONSAFEPATH=1",
        "export OMP_NUM_THREADS=1",
        # Caches of compilers: on the node, and nobody else's.
        f'cache={shlex.quote(profile.scratch)}/cad-$(id -u) && mkdir -p -m 700 "$cache"',
        # This script runs on the first node alone.
        *(['srun --ntasks-per-node=1 mkdir -p -m 700 "$cache"'] if nodes > 1 else []),
        'export TRITON_CACHE_DIR="$cache/triton" TORCH_EXTENSIONS_DIR="$cache/torch_extensions"',
        'task="${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}${SLURM_ARRAY_TASK_ID:+_$SLURM_ARRAY_TASK_ID}"',
        f'attempts={shlex.quote(str(place.folder))}/"$task"{ATTEMPTS_SUFFIX}',
        f'log={shlex.quote(str(place.folder))}/"$task"_0_log.out',
        'log_start=$(stat -c %s "$log" 2>/dev/null || echo 0)',
        'note() { echo "$(date +%s) $SLURMD_NODENAME $*" >>"$attempts"; }',
        "note started",
        *(check_lines(profile, place.folder) if profile.image else ()),
        *_decide(profile),
    ]


def _decide(profile: Profile) -> list[str]:
    return f"""\
again() {{
    # By its index: the number of one task of an array is also that of the whole array.
    # Not after scancel, nor where Slurm has requeued the job itself.
    case "$(scontrol --oneliner show job "$task")" in
    *JobState=RUNNING*|*Reason=TimeLimit*) ;;
    *) note ended; return ;;
    esac
    if [ "${{SLURM_RESTART_COUNT:-0}}" -ge {profile.max_requeues} ]; then note too-many-requeues; return; fi
    note "$1"
    scontrol requeue "$task"
}}
at_limit() {{
    case "$(scontrol --oneliner show job "$task")" in *Reason=TimeLimit*) again time-limit ;; esac
    exit
}}
# A task that did not save in time is ended together with this script, which is waiting for it: a
# process beside it acts at once.
(trap at_limit TERM; while :; do sleep 5 & wait $!; done) &
watcher=$!
disown""".splitlines()


def _after(profile: Profile) -> list[str]:
    return f"""\
code=$?
kill -KILL "$watcher"
memory='oom.?kill|exceeded .*memory|out of memory|MemoryError'
crashes=$(grep -c ' crashed$' "$attempts")
if [ "$code" = 0 ]; then
    note done
elif [ "$code" = {SAVED} ] || [ "$code" = {_BY_USR2} ] || [ "$code" = {_BY_TERM} ]; then
    again saved
elif tail -c "+$((log_start + 1))" "$log" | grep -qiE "$memory"; then
    note out-of-memory
elif [ "$code" -gt 128 ]; then
    if [ "$crashes" -lt {profile.max_crashes} ]; then again crashed; else note too-many-crashes; fi
else
    note failed
fi
exit "$code\"""".splitlines()
