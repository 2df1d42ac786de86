"""What a model loses when what it has compressed is replaced in the middle of its roll-outs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cad.reports.data.cells import LAST_EPISODES, last_episodes
from cad.reports.data.differences import paired, sharing_seeds
from cad.reports.data.model_result import ModelResult
from cad.reports.data.results import FloatArray
from cad.reports.data.study import Study
from cad.reports.data.tables import Table, Value, finite, table_if_any

BY: Mapping[str, str] = {"other": "those of a roll-out in another task", "noise": "noise"}
"""What latents are replaced by, in words, for each value of ``evaluation.knock_out``."""
_COLUMNS = (
    "label", "intact", "latents_replaced_by", "episode", "episodes_after", "intact_before", "intact_after",
    "replaced_after", "difference", "low_95", "high_95", "intact_last", "replaced_last", "n_seeds",
)  # fmt: skip


@dataclass(frozen=True)
class KnockOut:
    """A model whose memory was replaced at the start of an episode, and the same one intact.

    Means of return over optimum on the seeds that both have: ``before`` over as many episodes before as
    after, ``after`` over the ``n_after`` episodes from it on, ``last`` over a roll-out's last episodes.
    Demonstrated episodes count in none; ``before`` is NaN where there are no others.
    """

    model: ModelResult
    intact: ModelResult
    how: str
    episode: int  # counted from 1
    n_after: int
    seeds: tuple[int, ...]
    before: float
    intact_after: float
    after: float
    difference: float  # replaced minus intact
    low: float
    high: float
    intact_last: float
    last: float


def knock_outs(study: Study) -> list[KnockOut]:
    """Every model with a replaced memory that has an intact one beside it, in the experiment's order."""
    made = []
    for model in study.models if study.comparable else ():
        evaluation = model.config.evaluation
        how = evaluation.knock_out
        if how is None or not model.done or (intact := study.beside(model, knock_out=None)) is None:
            continue
        seeds = tuple(seed for seed in model.seeds if seed in intact.seeds)
        if seeds:
            made.append(_compared(model, intact, how, seeds))
    return made


def _compared(model: ModelResult, intact: ModelResult, how: str, seeds: tuple[int, ...]) -> KnockOut:
    episode = model.config.evaluation.knock_out_episode
    ours, theirs = (
        each.returns.units[[each.seeds.index(seed) for seed in seeds]] for each in (model, intact)
    )
    start, end = episode - 1, min(episode - 1 + LAST_EPISODES, ours.shape[2])
    n_after, shown = end - start, model.returns.demonstrated
    before, last = theirs[:, :, max(shown, start - n_after) : start], last_episodes(ours.shape[2] - shown)
    difference, low, high, _ = paired(*(part[:, :, start:end].mean(axis=2) for part in (ours, theirs)))
    return KnockOut(
        model, intact, how, episode, n_after, seeds,
        before=float(before.mean()) if before.size else math.nan,
        intact_after=float(theirs[:, :, start:end].mean()),
        after=float(ours[:, :, start:end].mean()),
        difference=difference, low=low, high=high,
        intact_last=float(theirs[:, :, -last:].mean()),
        last=float(ours[:, :, -last:].mean()),
    )  # fmt: skip


def knock_out_tables(study: Study) -> dict[str, Table]:
    """``knock_out``: a row a model whose memory was replaced."""
    rows: list[tuple[Value, ...]] = [
        (k.model.label, k.intact.label, k.how, k.episode, k.n_after, finite(k.before), k.intact_after,
         k.after, k.difference, finite(k.low), finite(k.high), k.intact_last, k.last, len(k.seeds))
        for k in knock_outs(study)
    ]  # fmt: skip
    return table_if_any("knock_out", _COLUMNS, rows)


@dataclass(frozen=True)
class Replaced:
    """An intact model and those of its roll-outs whose memory was replaced, on the seeds that all have."""

    first: KnockOut
    intact: FloatArray  # (episodes,)
    replaced: tuple[tuple[KnockOut, FloatArray], ...]


def replaced_curves(items: Sequence[KnockOut]) -> list[Replaced]:
    """The curves of each intact model."""
    groups: dict[str, list[KnockOut]] = {}
    for item in items:
        groups.setdefault(item.intact.label, []).append(item)
    found = []
    for same in groups.values():
        kept, seeds = sharing_seeds(same)
        curves = tuple((item, item.model.curve_of(seeds)) for item in kept)
        found.append(Replaced(same[0], same[0].intact.curve_of(seeds), curves))
    return found
