"""Process-wide settings that make numerical work reproducible and fast."""

from __future__ import annotations

import contextlib
import ctypes
import sys
import types
from collections.abc import Iterator

import torch

# Bytes: Linux counts getrusage's ru_maxrss in KiB, macOS in bytes.
MAXRSS_UNIT = 1 if sys.platform == "darwin" else 1024

# glibc's mallopt parameters (malloc.h).
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4


def prepare_process(threads: int) -> None:
    """Use ``threads`` threads for tensor operations, and keep freed memory in the process.

    Results depend on the number of threads, so the machine must not choose it.  By default glibc
    returns large temporary arrays to the system and gets them back page by page, which costs 11 to 18%
    of a training step on a CPU (benchmarks/README.md).
    """
    torch.set_num_threads(threads)
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:  # with another C library it is only slower
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(_M_TOP_PAD, 64 << 20)


@contextlib.contextmanager
def without_main() -> Iterator[None]:
    """Processes started in the block do not import the script that runs: it need not guard ``cad.run``."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main
