"""The task families that there are: one line each."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter

from cad.config.kinds import section_by_kind
from cad.envs.config import EnvConfig
from cad.envs.families.bandit import Bandit
from cad.envs.families.cued_darkroom import CuedDarkroom
from cad.envs.families.dark_key_to_door import DarkKeyToDoor
from cad.envs.families.darkroom import Darkroom, DarkroomConfig
from cad.envs.families.darkroom_permuted import DarkroomPermuted
from cad.envs.families.frozen_lake import FrozenLake
from cad.envs.families.random_mdp import RandomMDP
from cad.envs.families.t_maze import TMaze
from cad.envs.family import AnyFamily, TaskFamily

FAMILIES: dict[str, type[TaskFamily[Any]]] = {
    "darkroom": Darkroom,
    "darkroom_permuted": DarkroomPermuted,
    "dark_key_to_door": DarkKeyToDoor,
    "cued_darkroom": CuedDarkroom,
    "bandit": Bandit,
    "t_maze": TMaze,
    "random_mdp": RandomMDP,
    "frozen_lake": FrozenLake,
}

DEFAULT_ENV = DarkroomConfig()

if TYPE_CHECKING:
    AnyEnvConfig = EnvConfig
else:
    AnyEnvConfig = section_by_kind(
        {name: family.config_class for name, family in FAMILIES.items()}, "name", DEFAULT_ENV.name
    )


def env_config(settings: object) -> EnvConfig:
    """The section ``env`` of plain data; raises pydantic's ``ValidationError``, a ``ValueError``."""
    config: EnvConfig = TypeAdapter(AnyEnvConfig).validate_python(settings)
    return config


def task_family(env: EnvConfig) -> AnyFamily:
    """The family that a config describes; a subset of ``n_tasks`` is drawn with ``split_seed``."""
    if env.total_tasks == env.family_size:
        ids = tuple(range(env.family_size))
    else:
        whole = range(env.family_size)
        # A generator of its own: the split's shuffle must not depend on whether a subset was drawn.
        ids = tuple(sorted(random.Random(f"subset {env.split_seed}").sample(whole, env.total_tasks)))
    return FAMILIES[env.name](env, ids)
