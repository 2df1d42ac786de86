"""The processes of one training, and what they exchange besides gradients."""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import Store

from cad.errors import CadError
from cad.interrupt import InterruptedRun, StopFlag

# Key in the store, set by a rank that ends because it was asked to stop.
STOPPED = "stopped"
# How long one wait for a key of the store lasts before it is repeated.
_WAIT = timedelta(seconds=5)


@dataclass(frozen=True)
class RankAssignment:
    """A process's place: its rank of ``size``, its number on its node, and the first rank's host.

    ``rendezvous_id`` names this attempt: no earlier or concurrent attempt has the same.
    """

    rank: int
    size: int
    local_rank: int
    host: str
    rendezvous_id: str


class PeerLostError(CadError):
    """Another rank failed or went silent; what this rank had not saved is lost with it.

    Its exit code is that of a killed process, so that whoever started this one tries again; it is 1 when
    the other rank reported an error of its own (``explained``), which trying again would not cure.
    """

    def __init__(self, message: str, *, explained: bool = False) -> None:
        """``explained``: the other rank reported an error of its own, which is the one to act on."""
        super().__init__(message)
        self.exit_code = CadError.exit_code if explained else 137


class Ranks:
    """All ranks, as seen by one of them; all ranks call every method, in the same order.

    ``store`` is the key/value store that they share, None for a single process.
    """

    def __init__(self, rank: int = 0, size: int = 1, local_rank: int = 0, store: Store | None = None) -> None:
        self.rank = rank
        self.size = size
        self.local_rank = local_rank
        self._store = store
        self._broadcasts = 0
        self._barriers = 0
        # A group of their own: votes must neither wait for the device nor mix with its collectives.
        self._control = dist.new_group(backend="gloo") if store is not None else None

    @property
    def first(self) -> bool:
        """Whether this is the rank that writes."""
        return self.rank == 0

    def all_gather(self, tensor: Tensor) -> Tensor:
        """Every rank's tensor: (size, *shape), in the order of ranks."""
        if self._store is None:
            return tensor[None].clone()
        parts = [torch.empty_like(tensor) for _ in range(self.size)]
        dist.all_gather(parts, tensor)
        return torch.stack(parts)

    def mean(self, tensor: Tensor) -> Tensor:
        """The mean over ranks; all sum in the order of ranks and so get the same bits."""
        return self.all_gather(tensor).mean(dim=0)

    def broadcast(self, value: Any = None) -> Any:
        """Return the first rank's ``value`` (plain data) on all ranks; the others' is ignored."""
        if self._store is None:
            return value
        self._broadcasts += 1
        key = f"broadcast/{self._broadcasts}"
        if self.first:
            self._store.set(key, json.dumps(value))
            return value
        while True:
            try:
                self._store.wait([key], _WAIT)
                return json.loads(self._store.get(key))
            except dist.DistStoreError:  # not set yet; the peer monitor notices a lost rank
                if self._store.check([STOPPED]):
                    raise InterruptedRun("the first rank stopped before it started its work") from None

    def barrier(self) -> None:
        """Wait until all ranks have called this."""
        if self._store is None:
            return
        self._barriers += 1
        key = f"barrier/{self._barriers}"
        self._store.add(key, 1)
        while self._store.add(key, 0) < self.size:
            time.sleep(0.02)

    def vote(self, stop: StopFlag) -> StopVote:
        """Start a vote on stopping, for one loop."""
        return StopVote(self, stop, self._control)


SINGLE_PROCESS = Ranks()


class StopVote:
    """Whether any rank was asked to stop; all ranks get the same answer.

    Each call casts a vote and returns the outcome of the previous call's, which is complete by then,
    so that no rank waits.  A signal thus takes effect one step after it arrives.
    """

    def __init__(self, ranks: Ranks, stop: StopFlag, group: dist.ProcessGroup | None) -> None:
        self._stop = stop
        self._group = group
        self._ranks = ranks
        self._votes = torch.zeros(1)
        self._pending: dist.Work | None = None

    def __call__(self) -> bool:
        """Vote and return the previous vote's outcome; a single process returns its own wish."""
        if self._group is None:
            return self._stop()
        agreed = self.close()
        if agreed and not self._stop():
            self._stop.request()  # another rank was asked to stop
        self._votes = torch.tensor([float(self._stop())])
        self._pending = dist.all_reduce(self._votes, dist.ReduceOp.MAX, group=self._group, async_op=True)
        return agreed

    def close(self) -> bool:
        """Return the outcome of the open vote; False if none is open."""
        if self._pending is None:
            return False
        self._pending.wait()
        self._pending = None
        return bool(self._votes.item())


def device_of_rank(device: torch.device, local_rank: int) -> torch.device:
    """The device of one of a node's ranks: ranks divide the GPUs that they see among them.

    Engines read the number of their GPU from ``LOCAL_RANK``, which counts ranks.  Where each rank sees
    only its own GPU, these two numbers differ, so that this corrects the variable.
    """
    if device.type != "cuda" or device.index is not None or "LOCAL_RANK" not in os.environ:
        return device
    own = torch.device("cuda", local_rank % torch.cuda.device_count())
    torch.cuda.set_device(own)
    os.environ["LOCAL_RANK"] = str(own.index)
    return own
