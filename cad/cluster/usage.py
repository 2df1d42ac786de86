"""``cad status --usage``: what stages used of what they asked for, and what to ask for instead.

Finished stages note their peak of memory and their CPU time themselves; Slurm's accounting, where there is
some, knows more: all attempts, and jobs that failed.
"""

from __future__ import annotations

import contextlib
import shutil
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from cad.cluster.command import run_command
from cad.cluster.profile import Profile
from cad.config import from_mapping
from cad.errors import CadError
from cad.experiments.durations import clock_time
from cad.experiments.plan.directory import StageDirectory, shared_its_task
from cad.experiments.plan.stage import StageKind
from cad.surroundings import worth_asking_for

_GB = 2**30
# Of jobs that have not ended it is not known what they need.
_NOT_ENDED = ("PENDING", "RUNNING", "SUSPENDED", "RESIZING")


@dataclass(frozen=True)
class Used:
    """What one stage, or one job, used; None where it is not known."""

    kind: str
    seconds: float | None
    cpu_seconds: float | None
    cores: float | None
    peak_bytes: float | None


@dataclass(frozen=True)
class KindUsage:
    """What the stages of one kind used at most, and what their profile asked for."""

    kind: str
    n: int
    seconds: float | None
    peak_bytes: float | None
    efficiency: float | None  # CPU time by wall time and cores, over all that know both
    asked_minutes: float | None = None
    asked_gb: float | None = None

    @property
    def suggestion(self) -> str:
        """Keys of a profile with what would have been enough; empty where nothing is known."""
        return worth_asking_for(self.peak_bytes, self.seconds)


def usage(root: Path, names: Iterable[str]) -> list[KindUsage]:
    """What the stages of these names used, by kind, in the order in which kinds need each other."""
    stages = [StageDirectory(root, name) for name in dict.fromkeys(names)]
    jobs = {
        (note.cluster, note.job_id): (stage, note) for stage in stages if (note := stage.job()) is not None
    }
    used = {stage.name: _own(stage) for stage in stages if stage.done}
    for cluster in dict.fromkeys(cluster for cluster, _ in jobs):
        ids = [job_id for other, job_id in jobs if other == cluster]
        for job_id, row in _accounted(ids, cluster).items():
            stage, _ = jobs[cluster, job_id]
            used[stage.name] = _larger(stage.kind, used.get(stage.name), row)
    profiles = {}
    for stage, note in jobs.values():
        submission = note.submission(root)
        if submission is not None:
            with contextlib.suppress(CadError):  # a profile with keys of another version
                profiles[stage.kind] = from_mapping(Profile, submission.profile, note.folder)
    kinds = sorted({one.kind for one in used.values()}, key=typing.get_args(StageKind).index)
    return [
        _of_kind(kind, [u for u in used.values() if u.kind == kind], profiles.get(kind)) for kind in kinds
    ]


def _own(stage: StageDirectory) -> Used:
    """What a finished stage noted of itself; nothing where its note is damaged or of an earlier version."""
    try:
        record = stage.record()
    except CadError:
        record = {}
    if shared_its_task(record):  # what the task needed is more, and only the accounting knows it
        return Used(stage.kind, None, None, None, None)
    return Used(
        stage.kind,
        _number(record, "wall_seconds"),
        # It is that of the last attempt, the time that of all.
        _number(record, "cpu_seconds") if record.get("attempts", 1) == 1 else None,
        _number(record, "cores"),
        _number(record, "peak_memory_bytes"),
    )


def _number(record: Mapping[str, Any], key: str) -> float | None:
    value = record.get(key)
    return float(value) if isinstance(value, int | float) else None


def _larger(kind: str, own: Used | None, accounted: Used) -> Used:
    """The accounting's row; what a stage noted of its memory where that saw more."""
    peaks = [one.peak_bytes for one in (own, accounted) if one is not None and one.peak_bytes]
    if own is None or accounted.seconds:
        return Used(kind, accounted.seconds, accounted.cpu_seconds, accounted.cores, max(peaks, default=None))
    return own


def _of_kind(kind: str, used: list[Used], profile: Profile | None) -> KindUsage:
    request = None if profile is None else profile.for_stage(kind)
    known = [u for u in used if u.seconds and u.cpu_seconds is not None and u.cores]
    given = sum((u.seconds or 0) * (u.cores or 0) for u in known)
    memory = None
    if request is not None and request.memory_per_cpu_gb is not None:
        memory = request.memory_per_cpu_gb * request.cpus * request.tasks_per_node
    elif request is not None:
        memory = request.memory_gb
    return KindUsage(
        kind,
        len(used),
        max((u.seconds for u in used if u.seconds), default=None),
        max((u.peak_bytes for u in used if u.peak_bytes), default=None),
        sum(u.cpu_seconds or 0 for u in known) / given if given else None,
        None if request is None else request.minutes,
        memory,
    )


def _accounted(job_ids: Iterable[str], cluster: str | None) -> dict[str, Used]:
    """By job id, from ``sacct``; empty without accounting."""
    wanted = set(job_ids)
    if not wanted or shutil.which("sacct") is None:
        return {}
    bases = sorted({job.partition("_")[0] for job in wanted})
    command = ["sacct", "--noheader", "--parsable2", "--duplicates", "--starttime=1970-01-01"]
    command += ["--format=JobID,ElapsedRaw,TotalCPU,AllocCPUS,MaxRSS,State", f"--jobs={','.join(bases)}"]
    try:
        done = run_command(command, cluster=cluster)
    except CadError:
        return {}
    return {} if done.returncode else {k: u for k, u in parse_usage(done.stdout).items() if k in wanted}


def parse_usage(text: str) -> dict[str, Used]:
    """Job id to the sums over its attempts, and the largest memory of its steps; jobs that ran and ended."""
    going: set[str] = set()
    seconds: dict[str, float] = {}
    cpu: dict[str, float] = {}
    cores: dict[str, float] = {}
    peak: dict[str, float] = {}
    for line in text.splitlines():
        fields = line.split("|")
        if len(fields) != 6:
            continue
        try:
            elapsed, cpu_time, n_cores = float(fields[1] or 0), _seconds(fields[2]), float(fields[3] or 0)
            memory = _bytes(fields[4]) if fields[4] else 0.0
        except ValueError:  # a wrapper's heading, or Slurm's INVALID
            continue
        job, _, step = fields[0].partition(".")
        if fields[5].startswith(_NOT_ENDED):
            going.add(job)
        if not step:
            seconds[job] = seconds.get(job, 0.0) + elapsed
            cpu[job] = cpu.get(job, 0.0) + cpu_time
            cores[job] = n_cores
        if memory:
            peak[job] = max(peak.get(job, 0.0), memory)
    return {
        job: Used("", took, cpu[job], cores[job], peak.get(job))
        for job, took in seconds.items()
        if took and job not in going
    }


def _seconds(text: str) -> float:
    """``1-02:03:04`` and ``02:03.456`` in seconds."""
    days, _, clock = text.rpartition("-")
    total = 0.0
    for part in clock.split(":"):
        total = 60 * total + float(part or 0)
    return 86400 * int(days or 0) + total


def _bytes(text: str) -> float:
    """``12345K`` in bytes."""
    power = "KMGTP".find(text[-1]) + 1
    return float(text[:-1] if power else text) * float(1024**power)


def usage_table(rows: list[KindUsage]) -> Table:
    """The table: one row a kind of stage."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("stage", "known", "longest", "of", "most memory", "of", "CPU efficiency", "would do"):
        table.add_column(name, justify="left" if name in ("stage", "would do") else "right")
    for row in rows:
        table.add_row(
            row.kind,
            str(row.n),
            "-" if row.seconds is None else clock_time(row.seconds),
            "-" if row.asked_minutes is None else clock_time(60 * row.asked_minutes),
            "-" if row.peak_bytes is None else f"{row.peak_bytes / _GB:.2f} GiB",
            "-" if row.asked_gb is None else f"{row.asked_gb:g} GiB",
            "-" if row.efficiency is None else f"{row.efficiency:.0%}",
            row.suggestion or "-",
        )
    return table
