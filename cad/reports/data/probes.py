"""What probes read out of the latents, by model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeVar

import numpy as np

from cad.evaluation.probes.result import LatentProbe
from cad.reports.data.model_result import ModelResult
from cad.reports.data.results import FloatArray
from cad.reports.data.study import Study
from cad.reports.data.tables import Table, Value

T = TypeVar("T")


@dataclass(frozen=True)
class ProbedModel:
    """A model's cells that were probed, in the same tasks: what all of their probes have.

    An earlier version looked for fewer places, after fewer compressions; :func:`probe_tables` has everything.
    """

    model: ModelResult
    probes: tuple[LatentProbe, ...]
    seeds: tuple[int, ...]

    @property
    def counts(self) -> tuple[int, ...]:
        """Numbers of compressions after which latents were probed."""
        return self.probes[0].counts

    @property
    def targets(self) -> tuple[str, ...]:
        """The hidden places: goal, or key and door; none in permuted tasks."""
        return tuple(target.name for target in self.probes[0].targets)

    def distances(self, target: int, of: str) -> FloatArray:
        """(seeds, counts, tasks): moves from the place that was read out to the true one."""
        return np.array([getattr(probe.targets[target], of) for probe in self.probes])

    def chance(self, target: int) -> FloatArray:
        """(tasks,): moves to the mean of the training tasks' places."""
        mean: FloatArray = np.array([probe.targets[target].chance for probe in self.probes]).mean(axis=0)
        return mean

    @cached_property
    def attention(self) -> FloatArray:
        """(layers, 1 + counts): share of attention on latents, mean over seeds."""
        mean: FloatArray = np.array([probe.attention for probe in self.probes]).mean(axis=0)
        return mean


def probed_models(study: Study) -> list[ProbedModel]:
    """Models with probed cells, in the experiment's order."""
    probed = []
    for model in study.scored:
        cells = [(c.result.probe, c.result.config.seed) for c in model.done if c.result.probe is not None]
        if cells:
            probes, seeds = zip(*cells, strict=True)
            probed.append(ProbedModel(model, _what_all_have(probes), seeds))
    return probed


def _what_all_have(probes: tuple[LatentProbe, ...]) -> tuple[LatentProbe, ...]:
    """Probes after the same compressions, of the same places."""
    counts = [count for count in probes[0].counts if all(count in probe.counts for probe in probes)]
    names = [{target.name for target in probe.targets} for probe in probes]
    shared = set.intersection(*names)
    return tuple(_only(probe, counts, shared) for probe in probes)


def _only(probe: LatentProbe, counts: list[int], names: set[str]) -> LatentProbe:
    rows = [probe.counts.index(count) for count in counts]

    def of(values: Sequence[T]) -> tuple[T, ...]:
        return tuple(values[row] for row in rows)

    return replace(
        probe,
        counts=tuple(counts),
        targets=tuple(
            replace(
                target,
                trained=of(target.trained),
                untrained=of(target.untrained),
                r2=of(target.r2),
                r2_untrained=of(target.r2_untrained),
            )
            for target in probe.targets
            if target.name in names
        ),
        found=of(probe.found),
        attention=tuple((layer[0], *of(layer[1:])) for layer in probe.attention),
    )


def _whole(entry: ProbedModel) -> list[tuple[LatentProbe, int]]:
    """Probes as they are stored, and their seeds."""
    cells = (cell.result for cell in entry.model.done)
    return [(cell.probe, cell.config.seed) for cell in cells if cell.probe is not None]


def probe_tables(study: Study) -> dict[str, Table]:
    """``latent_attention`` and ``latent_probe``, a row a seed, where latents were probed."""
    probed = probed_models(study)
    if not probed:
        return {}
    rows: list[tuple[Value, ...]] = []
    for entry in probed:
        for probe, seed in _whole(entry):
            for target in probe.targets:
                for k, count in enumerate(probe.counts):
                    rows += [
                        (entry.model.label, seed, target.name, count, task, *numbers)
                        for task, *numbers in zip(
                            probe.task_ids, target.trained[k], target.untrained[k], target.chance,
                            probe.found[k], strict=True,
                        )
                    ]  # fmt: skip
    attention: list[tuple[Value, ...]] = [
        (entry.model.label, seed, layer + 1, count, share, probe.uniform)
        for entry in probed
        for probe, seed in _whole(entry)
        for layer, shares in enumerate(probe.attention)
        for count, share in zip((0, *probe.counts), shares, strict=True)
    ]
    tables = {
        "latent_attention": Table(
            ("label", "seed", "layer", "compressions", "share_on_latents", "share_if_uniform"), attention
        )
    }
    if rows:
        tables["latent_probe"] = Table(
            ("label", "seed", "target", "compressions", "task_id", "moves_trained", "moves_untrained",
             "moves_chance", "share_rewarded_before"),
            rows,
        )  # fmt: skip
    return tables
