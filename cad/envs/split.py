"""Which tasks are trained on, watched, and held out."""

from __future__ import annotations

import random
from dataclasses import dataclass

from cad.config.schema import Config, EnvConfig
from cad.envs.tasks import task_family


@dataclass(frozen=True)
class Split:
    """Canonical task ids; the three parts share no task and together are the whole family in use."""

    train: tuple[int, ...]
    validation: tuple[int, ...]
    heldout: tuple[int, ...]


def split_tasks(env: EnvConfig) -> Split:
    """Split the tasks of ``env`` the way public Darkroom code does, so that figures compare.

    ``random.seed(split_seed); random.shuffle(tasks in canonical order)``; the last ``n_heldout``
    are held out, in that order, and of the rest the last ``n_validation`` watch training.
    """
    order = list(task_family(env).task_ids)
    random.Random(env.split_seed).shuffle(order)
    n_known = len(order) - env.total_heldout
    n_train = n_known - env.n_validation
    return Split(
        train=tuple(order[:n_train]),
        validation=tuple(order[n_train:n_known]),
        heldout=tuple(order[n_known:]),
    )


def evaluated_tasks(config: Config) -> tuple[int, ...]:
    """The tasks that an evaluation puts the model into: the held-out ones, or those to choose settings on."""
    split = split_tasks(config.env)
    return split.validation if config.evaluation.tasks == "validation" else split.heldout
