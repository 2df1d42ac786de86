"""Which tasks are trained on, watched, and held out."""

from __future__ import annotations

from dataclasses import dataclass

from cad.envs.config import EnvConfig
from cad.envs.registry import task_family


@dataclass(frozen=True)
class Split:
    """Canonical task ids; the three parts share no task and together are the whole family in use."""

    train: tuple[int, ...]
    validation: tuple[int, ...]
    heldout: tuple[int, ...]


def split_tasks(env: EnvConfig) -> Split:
    """Split the tasks of ``env``, in the order of :meth:`TaskFamily.shuffled`.

    The last ``n_heldout`` are held out, in that order, and of the rest the last ``n_validation``
    watch training.
    """
    order = task_family(env).shuffled(env.split_seed)
    n_known = len(order) - env.total_heldout
    n_train = n_known - env.n_validation
    return Split(
        train=tuple(order[:n_train]),
        validation=tuple(order[n_train:n_known]),
        heldout=tuple(order[n_known:]),
    )
