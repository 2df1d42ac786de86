"""How many jobs a user may have: ``MaxSubmitJobs`` of the association and of the quality of service.

Only clusters with accounting have such limits.  Every task of an array counts as a job.
"""

from __future__ import annotations

import os
import pwd
import re
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cad.errors import CadError
from cad.launch.profile import StageResources
from cad.launch.queue import run_command


@dataclass(frozen=True)
class Association:
    """A user's place in an account; ``partition`` is empty where it is for all of them."""

    account: str
    is_default: bool
    partition: str
    max_submit: int | None
    qos: str
    """The quality of service of jobs that ask for none."""


@dataclass(frozen=True)
class Limits:
    """What the accounting says of a user, and the (account, qos) of each job in the queue."""

    associations: tuple[Association, ...]
    qos_max_submit: dict[str, int]
    queued: tuple[tuple[str, str], ...]


def room_for(asked: StageResources, limits: Limits) -> int | None:
    """How many more jobs these resources leave room for; None for no limit."""
    rooms = []
    mine = [
        found
        for found in limits.associations
        if (found.account == asked.account if asked.account else found.is_default)
    ]
    # One for the partition itself is the one that counts, where there is one.
    own = [found for found in mine if asked.partition and found.partition == asked.partition]
    for found in own or [found for found in mine if not found.partition]:
        qos = asked.qos or found.qos
        # Slurm looks at the association's limit only where the quality of service has none.
        if qos in limits.qos_max_submit:
            rooms.append(limits.qos_max_submit[qos] - sum(name == qos for _, name in limits.queued))
        elif found.max_submit is not None:
            used = sum(account == found.account for account, _ in limits.queued)
            rooms.append(found.max_submit - used)
    return max(0, min(rooms)) if rooms else None


def submit_room(resources: Iterable[StageResources]) -> int | None:
    """How many more jobs all of ``resources`` leave room for; None where there is no limit."""
    limits = _ask()
    rooms = [room for asked in resources if (room := room_for(asked, limits)) is not None] if limits else []
    return min(rooms, default=None)


def parse_associations(text: str) -> tuple[Association, ...]:
    """Rows of ``sacctmgr -nP show user ... withassoc`` in the format that :func:`submit_room` asks for."""
    rows = [line.split("|") for line in text.splitlines() if line.count("|") == 5]
    return tuple(
        Association(
            account,
            account == default,
            partition,
            int(most) if most.isdigit() else None,
            # Where none is the default, the only one that is allowed is.
            default_qos or (qos if "," not in qos else ""),
        )
        for default, account, partition, most, default_qos, qos in rows
    )


def _ask() -> Limits | None:
    """None where there is no accounting, or it does not answer: sbatch still refuses what is too much."""
    if shutil.which("sacctmgr") is None:
        return None
    user = pwd.getpwuid(os.getuid()).pw_name
    cluster = re.search(r"^ClusterName\s*=\s*(\S+)", _said(["scontrol", "show", "config"]), re.MULTILINE)
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
    jobs = _said(["squeue", "--noheader", "--array", f"--user={user}", "--format=%a|%q"])
    queued = tuple((row.partition("|")[0], row.partition("|")[2]) for row in jobs.split())
    return Limits(associations, qos, queued)


def _said(command: Sequence[str]) -> str:
    try:
        done = run_command(list(command))
    except CadError:
        return ""
    return "" if done.returncode else done.stdout
