"""How many jobs a user may submit: ``MaxSubmitJobs`` of the association and of the quality of service.

Only clusters with accounting have such limits.  Each task of an array counts as a job.
"""

from __future__ import annotations

import os
import pwd
import re
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cad.cluster.command import run_command
from cad.cluster.profile import AllocationRequest
from cad.cluster.squeue import tasks_in_queue
from cad.errors import CadError


@dataclass(frozen=True)
class Association:
    """A user's membership of an account; ``partition`` is empty where it holds for all partitions."""

    account: str
    is_default: bool
    partition: str
    max_submit: int | None
    qos: str
    """The default quality of service."""


@dataclass(frozen=True)
class Limits:
    """A user's limits, and the (account, qos) of each of their jobs in the queue."""

    associations: tuple[Association, ...]
    qos_max_submit: dict[str, int]
    queued: tuple[tuple[str, str], ...]


def room_for(request: AllocationRequest, limits: Limits) -> int | None:
    """How many more jobs with this request the user may submit; None without a limit."""
    rooms = []
    mine = [
        one
        for one in limits.associations
        if (one.account == request.account if request.account else one.is_default)
    ]
    # Slurm prefers the association with the partition itself, where there is one.
    own = [one for one in mine if request.partition and one.partition == request.partition]
    for association in own or [one for one in mine if not one.partition]:
        qos = request.qos or association.qos
        # Slurm applies the association's limit only where the quality of service has none.
        if qos in limits.qos_max_submit:
            rooms.append(limits.qos_max_submit[qos] - sum(name == qos for _, name in limits.queued))
        elif association.max_submit is not None:
            used = sum(account == association.account for account, _ in limits.queued)
            rooms.append(association.max_submit - used)
    return max(0, min(rooms)) if rooms else None


def submit_room(requests: Iterable[AllocationRequest], cluster: str | None = None) -> int | None:
    """How many more jobs the user may submit, whichever of ``requests`` they make; None without a limit.

    ``cluster`` is that of :func:`cad.cluster.command.run_command`.
    """
    limits = _ask(cluster)
    rooms = (
        [room for request in requests if (room := room_for(request, limits)) is not None] if limits else []
    )
    return min(rooms, default=None)


def parse_associations(text: str) -> tuple[Association, ...]:
    """Rows of ``sacctmgr -nP show user ... withassoc``, with the columns that :func:`_ask` requests."""
    rows = [line.split("|") for line in text.splitlines() if line.count("|") == 5]
    return tuple(
        Association(
            account,
            account == default,
            partition,
            int(most) if most.isdigit() else None,
            # Without a default, the only allowed one applies.
            default_qos or (qos if "," not in qos else ""),
        )
        for default, account, partition, most, default_qos, qos in rows
    )


def _ask(other: str | None) -> Limits | None:
    """None without accounting, or without an answer: sbatch still refuses too many jobs."""
    if shutil.which("sacctmgr") is None:
        return None
    user = pwd.getpwuid(os.getuid()).pw_name
    config = _said(["scontrol", "show", "config"], other)
    cluster = re.search(r"^ClusterName\s*=\s*(\S+)", config, re.MULTILINE)
    columns = "format=DefaultAccount,Account,Partition,MaxSubmitJobs,DefaultQOS,QOS"
    own = [f"name={user}", *([f"cluster={cluster.group(1)}"] if cluster else [])]
    associations = parse_associations(
        _said(["sacctmgr", "--noheader", "--parsable2", "show", "user", *own, "withassoc", columns])
    )
    if not associations:
        return None
    rows = _said(["sacctmgr", "--noheader", "--parsable2", "show", "qos", "format=Name,MaxSubmitPU"])
    qos = {
        name: int(most)
        for name, _, most in (row.partition("|") for row in rows.splitlines())
        if most.isdigit()
    }
    try:
        jobs = tasks_in_queue([f"--user={user}"], ("account", "qos"), other)
    except CadError:
        jobs = {}
    return Limits(associations, qos, tuple((account, name) for account, name in jobs.values()))


def _said(command: Sequence[str], cluster: str | None = None) -> str:
    try:
        done = run_command(list(command), cluster=cluster)
    except CadError:
        return ""
    return "" if done.returncode else done.stdout
