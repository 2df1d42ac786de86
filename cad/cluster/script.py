"""The job script, built by one pure function.

The script is submitit's own.  Lines before the worker set up its environment; lines after it decide
on the host whether the job runs again.
"""

from __future__ import annotations

import shlex
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# The pure function that submitit's executor uses; the version is pinned, and a test on a real
# cluster compares its result with what was submitted.
from submitit.slurm.slurm import _make_sbatch_string

from cad.cluster.arrays import ResourceMultiplier
from cad.cluster.image import check_lines, enter
from cad.cluster.profile import AllocationRequest, Profile, node_path, node_variables
from cad.cluster.queue import LAUNCH_FAILED
from cad.errors import UsageError
from cad.experiments.plan.job_records import ATTEMPTS_SUFFIX, STARTED

# A worker's exit code for "saved; start me again" (EX_TEMPFAIL).  The job script acts on it, because
# scontrol does not exist in an image.
SAVED = 75
# "Ended early": no failure, but what waits for it must not start.
PRUNED = 76
# "An input is not done": no failure of its own.
NOT_READY = 77
# A signal that came before the worker handled it; nothing is lost.
_BY_USR2, _BY_TERM = 128 + signal.SIGUSR2, 128 + signal.SIGTERM


@dataclass(frozen=True)
class SubmissionPaths:
    """The paths of a submission: its folder, the runs folder, the Python that submits."""

    folder: Path
    root: Path
    python: str

    @property
    def code(self) -> Path:
        """The frozen copy of the package that the jobs import."""
        return self.folder / "code"

    def comment(self, label: str) -> str:
        """What Slurm knows an array by, even when its answer with the job's number was lost."""
        return f"cad-{self.folder.name}-{label}"

    def task(self, label: str, index: int | str) -> Path:
        """What a task of an array runs (pickled); written before the array is submitted."""
        return self.folder / "tasks" / f"{label}-{index}.pkl"


def check_path(path: Path, what: str) -> None:
    """Refuse a path with characters that are special for sbatch or apptainer."""
    bad = sorted({repr(c) for c in str(path) if c in "%\\:,'\"`$" or not c.isprintable()})
    if bad:
        raise UsageError(
            f"{what} {str(path)!r} contains {' '.join(bad)}, which sbatch does not accept; rename it"
        )


def python_command(profile: Profile, kind: str, paths: SubmissionPaths, files: Sequence[Path] = ()) -> str:
    """The shell words that start Python: plain, or inside the image, with the ``files`` that it reads."""
    if profile.image is None:
        return shlex.quote(paths.python)
    for file in files:
        check_path(file, "a file that the experiment names,")
    return enter(profile, profile.for_stage(kind).n_gpus, (paths.root, *files))


def executor_parameters(
    profile: Profile,
    kind: str,
    job_name: str,
    paths: SubmissionPaths,
    multiplier: ResourceMultiplier,
    depends: str | None,
    label: str = "1",
    throttle: int | None = None,
    code: Sequence[Path] = (),
) -> dict[str, Any]:
    """Parameters of submitit's job script for one array; see :func:`job_script`."""
    request = profile.for_stage(kind)
    extra: dict[str, bool | int | str] = {
        "requeue": True,
        "kill-on-invalid-dep": "yes",
        "comment": paths.comment(label),
        **_gpus(profile, request),
        **request.sbatch,
    }
    memory = _megabytes(request, multiplier)
    if request.memory_per_cpu_gb is not None:
        extra["mem-per-cpu"] = f"{memory}M"
    parameters: dict[str, Any] = {
        "job_name": job_name,
        "partition": request.partition,
        "account": request.account,
        "qos": request.qos,
        "constraint": request.constraint,
        "time": max(1, round(request.minutes * multiplier.minutes)),
        "mem": None if memory is None or "mem-per-cpu" in extra else f"{memory}M",
        "nodes": request.nodes,
        "ntasks_per_node": request.tasks_per_node,
        "cpus_per_task": request.cpus,
        "dependency": depends,
        "array_parallelism": throttle or request.throttle,
        "signal_delay_s": profile.signal_seconds,
        "stderr_to_stdout": True,
        # False removes a default line: sbatch has no options with "=False".
        "additional_parameters": {key: value for key, value in extra.items() if value is not False},
        # Slurm 22.05 and later do not pass the job's CPUs to its steps.
        # No --kill-on-bad-exit: ranks notice themselves when one is gone.  A rank that has saved and ends
        # first must not get the others killed, which would look like a crash.
        # --export: with `export: NONE` in the profile srun would pass nothing on to the task.
        "srun_args": ["--export=ALL", f"--cpus-per-task={request.cpus}"],
        "setup": _setup(profile, request.nodes, paths, label, code),
        "teardown": _teardown(profile, request, memory),
    }
    return {key: value for key, value in parameters.items() if value is not None}


def _gpus(profile: Profile, request: AllocationRequest) -> dict[str, bool | int | str]:
    """The option that asks for GPUs, if any."""
    if not request.n_gpus:
        return {}
    gres = profile.gpu_option == "gres"
    return {"gres": f"gpu:{request.gpus}"} if gres else {"gpus-per-node": request.gpus}


def _megabytes(request: AllocationRequest, multiplier: ResourceMultiplier) -> int | None:
    """Memory per node, or per CPU where that is asked for; None: the cluster's default."""
    wanted = request.memory_per_cpu_gb or request.memory_gb
    return None if wanted is None else round(wanted * multiplier.memory * 1024)


def job_script(
    profile: Profile,
    kind: str,
    job_name: str,
    paths: SubmissionPaths,
    multiplier: ResourceMultiplier,
    depends: str | None,
    n: int,
    label: str = "1",
    throttle: int | None = None,
    files: Sequence[Path] = (),
    code: Sequence[Path] = (),
) -> str:
    """The job script for an array of ``n`` tasks.

    ``label`` names the array in its submission; at most ``throttle`` tasks run at a time (default: the
    profile's).  ``files`` are those that the tasks read, wherever they lie; ``code`` are folders of the
    user's from which they import, which an image would not see.
    """
    python = python_command(profile, kind, paths, (*files, *code))
    command = f"{python} -u -m submitit.core._submit {shlex.quote(str(paths.folder))}"
    parameters = executor_parameters(
        profile, kind, job_name, paths, multiplier, depends, label, throttle, code
    )
    return _make_sbatch_string(
        command=command, folder=paths.folder, map_count=n if n > 1 else None, **parameters
    )


def _setup(
    profile: Profile, nodes: int, paths: SubmissionPaths, label: str, code: Sequence[Path]
) -> list[str]:
    outside = (
        "".join(f":{shlex.quote(str(folder))}" for folder in code)
        if profile.image
        else "${PYTHONPATH:+:$PYTHONPATH}"
    )
    folder = shlex.quote(str(paths.folder))
    scratch = node_path(profile.scratch)
    # This script runs on the first node only.
    on_nodes = "srun --export=ALL --ntasks-per-node=1 " if nodes > 1 else ""
    return [
        "# Signals are for the worker; this script survives them to decide what comes next.",
        "trap : TERM USR2",
        "# A login file may set options of Slurm's commands; the job's own cluster is the one to ask.",
        "unset ${!SBATCH_@} ${!SQUEUE_@} ${!SCONTROL_@} ${!SINFO_@} SLURM_CLUSTERS",
        'task="${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}${SLURM_ARRAY_TASK_ID:+_$SLURM_ARRAY_TASK_ID}"',
        f'attempts={folder}/"$task"{ATTEMPTS_SUFFIX}',
        f'log={folder}/"$task"_0_log.out',
        'log_start=$(stat -c %s "$log" 2>/dev/null || echo 0)',
        'note() { echo "$(date +%s) $SLURMD_NODENAME $*" >>"$attempts"; }',
        "# An attempt that noted no end lost its node.",
        f"lost=$(awk '$3 == \"{STARTED}\" {{n += open; open = 1; next}} {{open = 0}} END {{print n + open}}' "
        '"$attempts" 2>/dev/null)',
        f"note {STARTED}",
        "# Without what it needs, the task would fail again: no requeue.",
        'refuse() { echo "cad: $2"; note "$1"; exit 1; }',
        f'[ "${{lost:-0}}" -le {profile.retry.node_fail.times} ] || '
        'refuse too-many-node-failures "its node failed $lost times (retry.node_fail)"',
        *(
            f"module load {shlex.quote(module)} || "
            f"refuse module-failed {shlex.quote(f'module load {module} failed on this node (modules)')}"
            for module in profile.modules
        ),
        *(f"export {name}={shlex.quote(value)}" for name, value in profile.environment.items()),
        *(
            f'[ -n "${{{name}:-}}" ] || refuse variable-missing '
            + shlex.quote(f"{name} is not set on this node; the profile names it in {key}")
            for key, path in (("scratch", profile.scratch), ("image", profile.image or ""))
            for name in node_variables(path)
        ),
        # The frozen copy comes before the folder that the job was submitted from.  An image has its own
        # packages; those of the host are for another Python.
        f"export PYTHONPATH={shlex.quote(str(paths.code))}{outside} PYTHONSAFEPATH=1",
        *(
            ['export APPTAINERENV_PYTHONPATH="$PYTHONPATH" PYTHONNOUSERSITE=1', "unset PYTHONHOME"]
            if profile.image
            else ()
        ),
        "export OMP_NUM_THREADS=1",
        "# Compilers keep code in it, on the node's own disk: nobody else may have made it or write to it.",
        f"export cache={scratch}/cad-$(id -u)",
        """own='mkdir -p -m 700 "$cache" && """
        """[ -n "$(find "$cache" -maxdepth 0 -type d -user "$(id -u)" ! -perm /077)" ]'""",
        f'{on_nodes}bash -c "$own" || {{',
        '    echo "cad: $cache is not yours alone; this job makes a folder of its own beside it"',
        '    cache="$cache-$SLURM_JOB_ID-$(od -An -N8 -tx8 /dev/urandom | tr -d " ")"',
        f'    {on_nodes}bash -c "$own" || refuse no-cache "cannot make $cache (scratch)"',
        "}",
        'export TRITON_CACHE_DIR="$cache/triton" TORCH_EXTENSIONS_DIR="$cache/torch_extensions"',
        'export TORCHINDUCTOR_CACHE_DIR="$cache/torchinductor"',
        "# The worker looks for its task by the job's number.",
        f'ln -sf {folder}/tasks/{label}-"${{SLURM_ARRAY_TASK_ID:-0}}".pkl {folder}/"$task"_submitted.pkl',
        *(check_lines(profile, paths.folder) if profile.image else ()),
        *_requeue_decision(profile),
    ]


def _requeue_decision(profile: Profile) -> list[str]:
    most = profile.retry.saved.times
    return f"""\
# A controller that is busy, or restarts, must not cost the job its requeue.
patiently() {{
    local pause
    for pause in 1 4 15 30 60; do "$@" && return; sleep "$pause"; done
    "$@"
}}
# Fields, not text that is meant for people; what does not begin with the mark is no answer.
ask() {{
    timeout -k 5 60 squeue --noheader --states=all "--jobs=$task" --format="cad|%T|%r" | grep "^cad|"
}}
standing() {{ patiently ask; }}
# Not after scancel, nor when Slurm itself has requeued the job.
stands() {{
    said=$(standing)
    case "$said" in *"cad|RUNNING|"*|*"|TimeLimit") ;; *) false ;; esac
}}
# Named by its index: the job id of one task of an array can be the id of the whole array.
requeue() {{ ! stands || timeout -k 5 60 scontrol requeue "$task"; }}
again() {{
    if ! stands; then echo "cad: not requeued, Slurm says: $said"; note ended; return; fi
    if [ "${{SLURM_RESTART_COUNT:-0}}" -ge {most} ]; then note too-many-requeues; return; fi
    note "$1"
    patiently requeue
    shift
    # The job waits again, so that it may be changed.  What ends it sends TERM first, and waits.
    [ $# = 0 ] || (trap '' TERM; exec scontrol update "JobId=$task" "$@")
}}
at_limit() {{
    case "$(standing)" in *"|TimeLimit") again time-limit ;; esac
    exit
}}
# When a task does not save in time, Slurm ends it and this script, which waits for it: a process of
# its own has to act at once.
(trap at_limit TERM; while :; do sleep 5 & wait $!; done) &
watcher=$!
disown""".splitlines()


def _teardown(profile: Profile, request: AllocationRequest, memory: int | None) -> list[str]:
    # More memory at each retry; a task that is out of retries stays dead.
    retry = profile.retry
    retries = 0 if memory is None else retry.out_of_memory.times
    field = "MinMemoryNode" if request.memory_per_cpu_gb is None else "MinMemoryCPU"
    more = " ".join(str(round((memory or 0) * retry.out_of_memory.memory ** (k + 1))) for k in range(retries))
    return f"""\
code=$?
kill -KILL "$watcher"
# srun also ends well when it loses its node: what counts is what the worker left.
[ "$code" != 0 ] || [ -e "${{attempts%{ATTEMPTS_SUFFIX}}}_0_result.pkl" ] || code=137
memory='oom.?kill|exceeded .*memory|out of memory|MemoryError'
crashes=$(grep -c ' crashed$' "$attempts")
more_memory=({more})
shortages=$(grep -c ' out-of-memory$' "$attempts")
# Killed soon after its start on one node: the others are tried, unless half of them are avoided already.
avoid() {{
    [ "$SECONDS" -lt {profile.bad_node_seconds} ] && [ "${{SLURM_JOB_NUM_NODES:-1}}" = 1 ] || return
    local all bad
    all=$(timeout 20 sinfo --noheader --Node --format=%N --partition="$SLURM_JOB_PARTITION" | sort -u | wc -l)
    bad=$({{ echo "$SLURMD_NODENAME"; awk '$3 == "bad-node" {{print $2}}' "$attempts"; }} | sort -u)
    [ $((2 * $(wc -l <<<"$bad"))) -le "$all" ] || return
    note bad-node
    echo "ExcNodeList=$(paste -sd, <<<"$bad")"
}}
# Slurm holds a task that a node's daemon could not start until its owner releases it.  Every task that is
# done releases one's held tasks once: a node that stays broken is not tried for ever.
release_held() {{
    local one
    timeout 20 squeue --noheader --array --states=PENDING "--user=$(id -u)" --format='%i|%r|%j' |
        awk -F'|' '$2 == "{LAUNCH_FAILED}" && $3 ~ /^cad-/ {{print $1}}' |
        while read -r one; do
            timeout 20 scontrol release "$one" && echo "cad: released job $one, which a node could not start"
        done
}}
if [ "$code" = 0 ]; then
    note done
    release_held
elif [ "$code" = {SAVED} ] || [ "$code" = {_BY_USR2} ] || [ "$code" = {_BY_TERM} ]; then
    again saved
elif [ "$code" = {PRUNED} ]; then
    note pruned
elif [ "$code" = {NOT_READY} ]; then
    note not-ready
elif tail -c "+$((log_start + 1))" "$log" | grep -qiE "$memory"; then
    if [ "$shortages" -lt {retries} ]; then
        again out-of-memory {field}="${{more_memory[$shortages]}}"
    else
        note out-of-memory
    fi
elif [ "$code" -gt 128 ]; then
    if [ "$crashes" -lt {retry.killed.times} ]; then again crashed $(avoid); else note too-many-crashes; fi
else
    note failed
fi
exit "$code\"""".splitlines()
