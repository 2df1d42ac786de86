"""Settings of a whole process that make numerical work repeatable and fast."""

from __future__ import annotations

import ctypes

import torch

# glibc's mallopt parameters (malloc.h).
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4


def prepare_process(threads: int) -> None:
    """Use ``threads`` threads for tensor work, and keep freed memory instead of returning it.

    Results depend on the number of threads, so it is set and never left to the machine.  By default
    glibc gives large temporaries back to the system, which hands them out again page by page: 11 to
    18% of a training step on a CPU (benchmarks/README.md).
    """
    torch.set_num_threads(threads)
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:  # another C library: only slower
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(_M_TOP_PAD, 64 << 20)
