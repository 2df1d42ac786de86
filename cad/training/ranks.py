"""The processes that share one training: what they tell each other besides gradients."""

from __future__ import annotations

import json
import time
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import Store

from cad.errors import CadError
from cad.interrupt import InterruptedRun, StopFlag

# Set in the store by a rank that ends because it was asked to.
STOPPED = "stopped"
# How long one wait at the store lasts before it begins again.
_WAIT = timedelta(seconds=5)


class PeerLostError(CadError):
    """Another rank failed or went silent; what this one had not saved is lost with it."""

    def __init__(self, message: str, *, explained: bool = False) -> None:
        """``explained``: the other rank told of an error of its own, which is the one to act on."""
        super().__init__(message)
        self.explained = explained


class Ranks:
    """All ranks, as one of them sees them; every method but the properties is called by all ranks alike.

    ``store`` is the key/value store of their meeting, None where there is one rank only.
    """

    def __init__(self, rank: int = 0, size: int = 1, local_rank: int = 0, store: Store | None = None) -> None:
        self.rank = rank
        self.size = size
        self.local_rank = local_rank
        self._store = store
        self._broadcasts = 0
        self._barriers = 0
        # Votes must not wait for the device, nor get between its collectives.
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
        """The mean over ranks; summed in their order, so that all get the same bits."""
        return self.all_gather(tensor).mean(dim=0)

    def broadcast(self, value: Any = None) -> Any:
        """The first rank's ``value`` (plain data), known to all; the others' is not looked at."""
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
            except dist.DistStoreError:  # not yet; a rank that is gone is noticed elsewhere
                if self._store.check([STOPPED]):
                    raise InterruptedRun("the first rank was stopped before its work began") from None

    def barrier(self) -> None:
        """Wait until all ranks are here."""
        if self._store is None:
            return
        self._barriers += 1
        key = f"barrier/{self._barriers}"
        self._store.add(key, 1)
        while self._store.add(key, 0) < self.size:
            time.sleep(0.02)

    def vote(self, stop: StopFlag) -> StopVote:
        """A vote on stopping, for one loop."""
        return StopVote(self, stop, self._control)


SINGLE_PROCESS = Ranks()


class StopVote:
    """Whether any rank was asked to stop, answered alike on all ranks.

    Each call casts a vote and answers with the outcome of the call before, which all ranks have
    passed by then: nobody waits for it.  A signal is thus honoured one step after it came.
    """

    def __init__(self, ranks: Ranks, stop: StopFlag, group: dist.ProcessGroup | None) -> None:
        self._stop = stop
        self._group = group
        self._ranks = ranks
        self._asked = torch.zeros(1)
        self._pending: dist.Work | None = None

    def __call__(self) -> bool:
        """Vote, and say what came of the vote before; alone, whether a stop was asked for."""
        if self._group is None:
            return self._stop()
        agreed = self.close()
        if agreed and not self._stop():
            self._stop.request()  # another rank was told
        self._asked = torch.tensor([float(self._stop())])
        self._pending = dist.all_reduce(self._asked, dist.ReduceOp.MAX, group=self._group, async_op=True)
        return agreed

    def close(self) -> bool:
        """The outcome of the vote that is still open, if one is."""
        if self._pending is None:
            return False
        self._pending.wait()
        self._pending = None
        return bool(self._asked.item())
