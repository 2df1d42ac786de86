"""The task families that there are: ours, one line each, and those of other packages.

A family from outside is named by an entry point of an installed package (group ``cad.task_families``) or by
where it is: ``env.name: "my_package.my_module:MyFamily"``.  A class is imported when it is asked for.
"""

from __future__ import annotations

import inspect
import random
from collections.abc import Iterator, Mapping
from importlib import import_module, metadata
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import TypeAdapter

from cad.config.keys import keys_of
from cad.config.kinds import SectionByName
from cad.config.section import Section
from cad.envs.config import EnvConfig
from cad.envs.families.darkroom import DarkroomConfig
from cad.envs.family import AnyFamily, TaskFamily
from cad.errors import first_line

ENTRY_POINTS = "cad.task_families"
"""Group of the entry points by which an installed package offers families."""

_BUILT_IN = {
    "darkroom": "cad.envs.families.darkroom:Darkroom",
    "darkroom_permuted": "cad.envs.families.darkroom_permuted:DarkroomPermuted",
    "dark_key_to_door": "cad.envs.families.dark_key_to_door:DarkKeyToDoor",
    "cued_darkroom": "cad.envs.families.cued_darkroom:CuedDarkroom",
    "bandit": "cad.envs.families.bandit:Bandit",
    "t_maze": "cad.envs.families.t_maze:TMaze",
    "random_mdp": "cad.envs.families.random_mdp:RandomMDP",
    "frozen_lake": "cad.envs.families.frozen_lake:FrozenLake",
    "gymnasium": "cad.envs.families.gymnasium_tasks:GymnasiumTasks",
}


class FamilyRegistry(Mapping[str, type[AnyFamily]]):
    """Families by name, each imported when it is first looked up.

    Iteration gives the names of ours and of installed packages' entry points; a name with a colon,
    ``module:Class``, is looked up too.  ``KeyError`` for a name that nobody has, ``ValueError`` in words for
    a family that cannot be imported or is none.
    """

    def __init__(self) -> None:
        self._loaded: dict[str, type[AnyFamily]] = {}
        self._offered: dict[str, str] | None = None

    @property
    def places(self) -> dict[str, str]:
        """Where each family is, ``module:Class``, by name; one of ours hides another of its name."""
        if self._offered is None:  # looks into every installed package
            self._offered = {point.name: point.value for point in metadata.entry_points(group=ENTRY_POINTS)}
        return {**self._offered, **_BUILT_IN}

    def __getitem__(self, name: str) -> type[AnyFamily]:
        if name not in self._loaded:
            where = _BUILT_IN.get(name) or (name if ":" in name else self.places[name])
            family = _import_family(where)
            self._loaded[name] = family
            if ":" in name:
                keys_of.cache_clear()  # a config now takes the keys of this family too
        return self._loaded[name]

    def __contains__(self, name: object) -> bool:
        return name in self.places or name in self._loaded

    def __iter__(self) -> Iterator[str]:
        return iter([*_BUILT_IN, *(name for name in self.places if name not in _BUILT_IN)])

    def __len__(self) -> int:
        return len(self.places)

    def usable(self) -> dict[str, type[AnyFamily]]:
        """All families that can be imported, and those that were looked up by where they are."""
        found = {}
        for name in dict.fromkeys([*self, *self._loaded]):
            try:
                found[name] = self[name]
            except ValueError:  # another package's fault; who names it is told
                continue
        return found


def _import_family(where: str) -> type[AnyFamily]:
    """The class at ``module:Class``; ``ValueError`` that says what is wrong with it."""
    module, _, qualified = where.partition(":")
    try:
        found: Any = import_module(module)
    except Exception as error:  # code of others may raise anything
        raise ValueError(
            f"{where}: importing {module} fails ({type(error).__name__}: {first_line(error)}); is it "
            "installed, or its folder on PYTHONPATH?"
        ) from error
    for part in qualified.split("."):
        found = getattr(found, part, None)
    if found is None:
        raise ValueError(f"{where}: {module} has no {qualified}")
    if not (inspect.isclass(found) and issubclass(found, TaskFamily)):
        raise ValueError(f"{where}: it is no task family (a subclass of cad.envs.family.TaskFamily)")
    config = getattr(found, "config_class", None)
    if not (inspect.isclass(config) and issubclass(config, EnvConfig)):
        raise ValueError(f"{where}: its config_class is no subclass of cad.envs.config.EnvConfig")
    stated = config.model_fields["horizon"].is_required()
    own = config.steps_per_episode is not EnvConfig.steps_per_episode
    if not (hasattr(config, "DEFAULT_HORIZON") or stated or own):
        raise ValueError(f"{where}: its config_class has no DEFAULT_HORIZON, the steps of an episode")
    if missing := ", ".join(sorted(found.__abstractmethods__ | config.__abstractmethods__)):
        raise ValueError(f"{where}: it does not define {missing}")
    return found


FAMILIES = FamilyRegistry()
DEFAULT_ENV = DarkroomConfig()


def config_class(name: str) -> type[EnvConfig]:
    """The section ``env`` of a family; see :class:`FamilyRegistry` for names that cannot be used."""
    found: type[EnvConfig] = FAMILIES[name].config_class
    return found


def _known_sections() -> dict[str, type[Section]]:
    return {name: family.config_class for name, family in FAMILIES.usable().items()}


if TYPE_CHECKING:
    AnyEnvConfig = EnvConfig
else:
    AnyEnvConfig = Annotated[
        EnvConfig, SectionByName(EnvConfig, "name", DEFAULT_ENV.name, config_class, _known_sections)
    ]


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
