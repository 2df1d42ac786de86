"""Choose the one setting by which a model's state has as many bytes as that of another arm's model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cad.errors import UsageError
from cad.schema import Config, EqualState


@dataclass(frozen=True)
class Point:
    """One point of an arm's grid, without the seed."""

    arm: str
    label: str
    grid: Mapping[str, object]  # the grid's keys with their values at this point
    config: Config

    @property
    def state_bytes(self) -> int:
        """Bytes that one roll-out keeps between steps."""
        return self.config.spec.state_bytes(self.config.model)


@dataclass(frozen=True)
class Choice:
    """A setting that was chosen so that a state is as large as another one, closest from below."""

    key: str
    value: int
    state_bytes: int
    other: str  # label of the other model
    other_bytes: int

    def in_words(self) -> str:
        """What was chosen, and for which sizes."""
        return (
            f"{self.key}={self.value}: a state of {self.state_bytes:,} bytes "
            f"for the {self.other_bytes:,} of {self.other}"
        )


def reference_point(wanted: EqualState, points: Sequence[Point], where: str) -> Point:
    """The point of another arm that ``wanted`` names; :class:`UsageError` unless it is one size of state."""
    named = [point for point in points if point.arm == wanted.to]
    if not named:
        arms = "; ".join(dict.fromkeys(point.arm for point in points)) or "there is none"
        raise UsageError(
            f"{where}: to={wanted.to!r} is not an arm without an equal_state of its own ({arms})"
        )
    grid = named[0].grid
    for key, value in wanted.at.items():
        if key not in grid:
            keys = ", ".join(grid) or "it has none"
            raise UsageError(f"{where}: at: {key} is not a key of the grid of arm {wanted.to!r} ({keys})")
        if value not in [point.grid[key] for point in named]:
            values = ", ".join(str(value) for value in dict.fromkeys(str(p.grid[key]) for p in named))
            raise UsageError(f"{where}: at: {key}={value} is not in the grid of arm {wanted.to!r} ({values})")
    there = [point for point in named if all(point.grid[key] == value for key, value in wanted.at.items())]
    if len({point.state_bytes for point in there}) > 1:
        sizes = "; ".join(f"{point.label}: {point.state_bytes:,} bytes" for point in there)
        raise UsageError(f"{where}: say with at: which model of arm {wanted.to!r} is meant ({sizes})")
    return there[0]


def choose(config: Config, settings: Mapping[str, object], other: Point, where: str) -> Choice:
    """What to set in ``config``, made of ``settings``, for a state as large as ``other``'s or just below.

    Raises :class:`UsageError` where nothing can be chosen.
    """
    name = config.spec.state_key
    if name is None:
        raise UsageError(
            f"{where}: the size of the state of model.kind={config.model.kind} is no one setting's"
        )
    key = f"model.{name}"
    section = settings.get("model")
    if key in settings or (isinstance(section, Mapping) and name in section):
        raise UsageError(f"{where}: it chooses {key}, which the arm sets too; leave one of them out")

    def size(value: int) -> int:
        return config.spec.state_bytes(config.model.model_copy(update={name: value}))

    limit = other.state_bytes
    if size(1) > limit:
        raise UsageError(
            f"{where}: a state of {limit:,} bytes ({other.label}) is too small: {key}=1 has {size(1):,}"
        )
    low, high = 1, 2
    while size(high) <= limit:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if size(middle) <= limit else (low, middle)
    return Choice(key, low, size(low), other.label, limit)
