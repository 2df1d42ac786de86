"""Returns by the number of compressions, and the regions that models closed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cad.reports.data.cells import CellSummary
from cad.reports.data.model_result import ModelResult
from cad.reports.data.study import Study
from cad.reports.data.tables import Table, Value, table_if_any

Region = tuple[int, int, bool]
"""Step at which a region was closed, steps in it, whether the model closed it itself."""


def compressing(study: Study) -> list[ModelResult]:
    """Models with a done cell whose compression steps are known."""
    return [
        model
        for model in study.scored
        if model.facts.depth and any(len(cell.by_compressions) > 1 for cell in model.done)
    ]


def common_compressions(model: ModelResult) -> int:
    """How often nine of ten roll-outs of each seed compress, whose means are over nearly all roll-outs."""
    return min((cell.common_compressions for cell in model.done if cell.by_compressions), default=0)


def mean_by_compressions(model: ModelResult) -> list[tuple[int, float]]:
    """(compressions before an episode, mean return over seeds), as far as :func:`common_compressions`."""
    values: dict[int, list[float]] = {}
    for cell in model.done:
        for count, value, _ in cell.by_compressions:
            if count <= common_compressions(model):
                values.setdefault(count, []).append(value)
    return [(count, float(np.mean(returns))) for count, returns in sorted(values.items())]


def cut_short(model: ModelResult) -> bool:
    """Whether some roll-outs compress more often than :func:`common_compressions`."""
    most = max((count for cell in model.done for count, _, _ in cell.by_compressions), default=0)
    return most > common_compressions(model)


@dataclass(frozen=True)
class DepthSpot:
    """Mean return of a model's episodes before which it had compressed ``low`` to ``high`` times."""

    low: int
    high: int
    mean: float
    episodes: int

    @property
    def counts(self) -> str:
        """The numbers of compressions in words."""
        return str(self.low) if self.low == self.high else f"{self.low}-{self.high}"


def depth_columns(study: Study) -> list[tuple[int, int]]:
    """Columns of the matrix of trained depth and compressions in a roll-out: the fewest and the most.

    0, 1, 2-3, 4-7 and so on, parted where a model's training ended: no column is on both sides of that.
    """
    models = compressing(study)
    most = max((count for model in models for cell in model.done for count, *_ in cell.by_compressions),
               default=0)  # fmt: skip
    ends = {2**power - 1 for power in range(most.bit_length() + 1)} | {
        model.facts.depth or 0 for model in models
    }
    highs = sorted(end for end in ends if end <= max(1, 2 * most))
    return [
        (low, high)
        for low, high in zip([0, *(high + 1 for high in highs)], highs, strict=False)
        if low <= most
    ]


def depth_row(model: ModelResult, columns: Sequence[tuple[int, int]]) -> list[DepthSpot]:
    """A model's row of the matrix, without the columns that its roll-outs do not have.

    Means over roll-outs, then tasks, for each number of compressions; over several numbers, and over the
    done seeds, each counts by its episodes.
    """
    points = [point for cell in model.done for point in cell.by_compressions]
    spots = []
    for low, high in columns:
        inside = [(value, size) for count, value, size in points if low <= count <= high]
        if inside:
            values, sizes = zip(*inside, strict=True)
            spots.append(DepthSpot(low, high, float(np.average(values, weights=sizes)), sum(sizes)))
    return spots


def compression_tables(study: Study) -> dict[str, Table]:
    """``return_by_compressions`` and ``depth_by_compressions``, where compression steps are known."""
    columns = ("label", "seed", "compressions", "normalised_return", "episodes")
    rows: list[tuple[Value, ...]] = [
        (model.label, cell.result.config.seed, *point)
        for model in compressing(study)
        for cell in model.done
        for point in cell.by_compressions
    ]
    columns_of_all = depth_columns(study)
    matrix: list[tuple[Value, ...]] = [
        (model.label, model.facts.depth, model.facts.n_latent, spot.low, spot.high, spot.mean, spot.episodes)
        for model in compressing(study)
        for spot in depth_row(model, columns_of_all)
    ]
    names = (
        "label", "trained_depth", "latents", "compressions_from", "compressions_to", "normalised_return",
        "episodes",
    )  # fmt: skip
    return table_if_any("return_by_compressions", columns, rows) | table_if_any(
        "depth_by_compressions", names, matrix
    )


def choosing_models(study: Study) -> list[ModelResult]:
    """Models that close regions themselves and whose compression steps are known, best first."""
    return [
        model
        for model in study.best_first
        if model.facts.chooses_regions
        and any(cell.result.compression_steps is not None for cell in model.done)
    ]


def closed_regions(cell: CellSummary) -> list[Region]:
    """All regions that a cell's roll-outs closed, in order of steps."""
    compression_steps, chosen = cell.result.compression_steps, cell.result.chosen
    if compression_steps is None or chosen is None:
        return []
    there = compression_steps > 0
    lengths = np.diff(compression_steps, axis=2, prepend=0)
    rows = zip(
        compression_steps[there].tolist(), lengths[there].tolist(), chosen[there].tolist(), strict=True
    )
    return sorted((int(step), int(length), bool(by_model)) for step, length, by_model in rows)


def count_regions(regions: list[Region], part: int) -> list[tuple[int, int, int]]:
    """How many regions (closed by the model, by a full window) by step (``part`` 0) or by length (1)."""
    by_model = Counter(region[part] for region in regions if region[2])
    full = Counter(region[part] for region in regions if not region[2])
    return [(value, by_model[value], full[value]) for value in sorted(by_model | full)]


def region_tables(study: Study) -> dict[str, Table]:
    """``region_moments`` and ``region_lengths``, where models close regions themselves."""
    choosing = choosing_models(study)
    tables = {}
    for name, value, part in (("region_moments", "step", 0), ("region_lengths", "length", 1)):
        rows: list[tuple[Value, ...]] = [
            (model.label, cell.result.config.seed, *row)
            for model in choosing
            for cell in model.done
            for row in count_regions(closed_regions(cell), part)
        ]
        columns = ("label", "seed", value, "closed_by_model", "closed_with_full_window")
        tables[name] = Table(columns, rows)
    return tables if choosing else {}
