"""What probes read out of the latents, by model."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from cad.evaluation.probes.result import LatentProbe
from cad.reports.data.model_result import ModelResult
from cad.reports.data.results import FloatArray
from cad.reports.data.study import Study
from cad.reports.data.tables import Table, Value


@dataclass(frozen=True)
class ProbedModel:
    """A model's cells that were probed after the same compressions in the same tasks."""

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
            probed.append(ProbedModel(model, probes, seeds))
    return probed


def probe_tables(study: Study) -> dict[str, Table]:
    """``latent_attention`` and ``latent_probe``, a row a seed, where latents were probed."""
    probed = probed_models(study)
    if not probed:
        return {}
    rows: list[tuple[Value, ...]] = []
    for entry in probed:
        for probe, seed in zip(entry.probes, entry.seeds, strict=True):
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
        for probe, seed in zip(entry.probes, entry.seeds, strict=True)
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
