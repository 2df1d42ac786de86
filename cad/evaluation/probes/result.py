"""The result of a probe of latents, and its file: small JSON in the evaluation's folder."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cad.checksums import DamagedFileError, read_sealed, write_sealed

PROBE_FILE = "probe.json"
VERSION = 1


@dataclass(frozen=True)
class Target:
    """How well a hidden place (goal, key, door), or several of one kind, can be read out of latents.

    ``trained`` and ``untrained`` are (counts, tasks): mean distance, in moves on the grid, between a
    place that the probe predicts and the true one.  ``chance`` (tasks,) is that distance for the mean of
    the training tasks' places.  ``r2`` and ``r2_untrained`` are (counts,): the explained share of the
    places' variance; 0 is chance, below is worse.
    """

    name: str
    trained: tuple[tuple[float, ...], ...]
    untrained: tuple[tuple[float, ...], ...]
    chance: tuple[float, ...]
    r2: tuple[float, ...]
    r2_untrained: tuple[float, ...]


@dataclass(frozen=True)
class LatentProbe:
    """The probe of one cell's latents; numbers are rounded to six digits.

    ``counts`` are the numbers of compressions after which latents were probed; ``found`` (counts,
    tasks) is the share of roll-outs that had been rewarded by then, or of several places of one kind that
    had given a reward.  ``attention`` is (layers,
    1 + counts): the share of a step's attention that goes to the latents after 0 and after
    ``counts`` compressions, mean over the window's steps, heads, roll-outs and tasks.  ``uniform``
    is that share if all positions got the same attention.  Permuted tasks have no ``targets``.
    """

    task_ids: tuple[int, ...]
    fit_tasks: int
    fit_rollouts: int
    untrained_encoders: int
    counts: tuple[int, ...]
    targets: tuple[Target, ...]
    found: tuple[tuple[float, ...], ...]
    attention: tuple[tuple[float, ...], ...]
    uniform: float


def save_probe(path: Path, probe: LatentProbe, stage: str | None = None) -> None:
    """Write ``probe`` of the evaluation called ``stage``, with a checksum, atomically."""
    write_sealed(path, {"version": VERSION, "stage": stage, **_rounded(asdict(probe))})


def load_probe(path: Path, stage: str | None = None) -> LatentProbe:
    """Read what :func:`save_probe` wrote; raises :class:`~cad.errors.CadError` that names
    what is wrong with the file.

    Files of earlier versions have no checksum and do not say whose they are.
    """
    remedy = f"'cad repair {path.parent}' sets it aside, and 'cad probe' makes it again"
    stored = read_sealed(path, remedy, always_sealed=("stage",))
    owner = stored.pop("stage", None)
    if stage is not None and owner not in (None, stage):
        raise DamagedFileError(path, f"it is that of {owner}, not of {stage}", remedy)
    try:
        version = stored.pop("version")
        if version != VERSION:
            raise DamagedFileError(path, f"its format is {version}, and this cad reads {VERSION}", remedy)
        targets = tuple(Target(**_tuples(target)) for target in stored.pop("targets"))
        return LatentProbe(targets=targets, **_tuples(stored))
    except (AttributeError, KeyError, TypeError) as error:
        raise DamagedFileError(path, f"it is no probe: {error}", remedy) from error


def _rounded(value: Any) -> Any:
    # The last digits of linear algebra differ from machine to machine.
    if isinstance(value, float):
        return round(value, 6)
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return [_rounded(item) for item in value] if isinstance(value, list | tuple) else value


def _tuples(value: dict[str, Any]) -> dict[str, Any]:
    def tupled(item: Any) -> Any:
        return tuple(map(tupled, item)) if isinstance(item, list) else item

    return {key: tupled(item) for key, item in value.items()}
