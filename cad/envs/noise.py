"""Random numbers of environments: a pure function of a key and a counter.

Every environment of a batch has a key of its own, so that what happens in it depends neither on the
rest of the batch nor on what was drawn before: any step of any episode can be derived again, which is how
histories are audited and roll-outs replayed.  The function is splitmix64 (Steele, Lea and Flood, "Fast
splittable pseudorandom number generators", OOPSLA 2014); unlike a library's generator it is ours to keep.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Keys = npt.NDArray[np.uint64]

_GOLDEN = 0x9E3779B97F4A7C15
_M1, _M2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_MASK = (1 << 64) - 1


def mix(values: Keys) -> Keys:
    """splitmix64's finaliser of each of ``values``."""
    z = values ^ (values >> np.uint64(30))
    z = z * _M1
    z = (z ^ (z >> np.uint64(27))) * _M2
    mixed: Keys = z ^ (z >> np.uint64(31))
    return mixed


def derive(keys: Keys, counter: int | npt.NDArray[np.integer]) -> Keys:
    """The key that follows from each of ``keys`` and a counter, or from a counter each."""
    steps = np.asarray(counter).astype(np.uint64) + np.uint64(1)
    with np.errstate(over="ignore"):
        return mix(keys + steps * np.uint64(_GOLDEN))


def noise_keys(purpose: str, seed: int, task_ids: npt.ArrayLike, members: npt.ArrayLike) -> Keys:
    """Keys (n,) of environments: of a purpose, a seed, their tasks (n,) and their numbers in a task (n,)."""
    root = np.array([int.from_bytes(purpose.encode()[:8].ljust(8, b"\0"), "little")], dtype=np.uint64)
    root = derive(root, seed & _MASK if seed < 0 else seed)
    tasks = derive(root, np.asarray(task_ids, dtype=np.int64))
    return derive(tasks, np.asarray(members, dtype=np.int64))


def uniform(keys: Keys, counter: int | npt.NDArray[np.integer]) -> npt.NDArray[np.float64]:
    """One number in [0, 1) a key, of 53 bits."""
    return (derive(keys, counter) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def smallest_reaching(targets: npt.NDArray[np.integer], scale: int) -> npt.NDArray[np.float64]:
    """The smallest numbers whose float64 product with ``scale`` is not below ``targets`` (whole numbers)."""
    cuts = targets / scale
    while (high := np.nextafter(cuts, -np.inf) * scale >= targets).any():
        cuts = np.where(high, np.nextafter(cuts, -np.inf), cuts)
    while (low := cuts * scale < targets).any():
        cuts = np.where(low, np.nextafter(cuts, np.inf), cuts)
    return cuts


def permutations(keys: Keys, n: int) -> npt.NDArray[np.int64]:
    """A random order of 0 to n - 1 a key, (keys, n)."""
    drawn = uniform(keys[:, None], np.arange(n)[None])
    order: npt.NDArray[np.int64] = drawn.argsort(axis=1, kind="stable")
    return order
