"""A linear probe: how well the hidden places of a task can be read out of latents.

The probe is ridge regression (closed form: no optimiser whose settings could favour one cell) from
all latents of a roll-out to the row and column of the goal.  One is fitted after each of several
numbers of compressions, on roll-outs in *training* tasks, and tested in held-out tasks.  Two
baselines use the same roll-outs: the mean of the training goals (chance), and the same probe of
encoders with random weights (what any mixing of the last steps' embeddings reveals).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from cad.envs.family import AnyFamily
from cad.evaluation.probes.attention import uniform_share
from cad.evaluation.probes.latents import as_steps, attention_after, latents_after
from cad.evaluation.probes.result import LatentProbe, Target
from cad.evaluation.probes.ridge import FloatArray, fit_ridge
from cad.evaluation.probes.schedule import probed_counts, window_length
from cad.evaluation.replay import Trajectories
from cad.models.compressed_ad.network import CompressedAD
from cad.schema import Config
from cad.training.learner import build_model

FIT_TASKS = 100
FIT_ROLLOUTS = 4
UNTRAINED = 3  # encoders with random weights, averaged

Latents = tuple[FloatArray, FloatArray]
"""Of the roll-outs to fit and to test: (counts, B, d) each."""


def probe_latents(config: Config, model: CompressedAD, fit: Trajectories, test: Trajectories) -> LatentProbe:
    """Probe ``model`` (in eval mode); the roll-outs of ``fit`` are in training tasks.

    ``test`` holds equally many roll-outs of each of its tasks, one task after the other.  Steps after
    the last probed window are ignored.
    """
    counts = probed_counts(config)
    test_ids = tuple(dict.fromkeys(test.task_ids))
    device = next(model.parameters()).device
    fit_steps, test_steps = as_steps(fit).to(device), as_steps(test).to(device)

    def latents_of(encoder: CompressedAD) -> Latents:
        return latents_after(encoder, fit_steps, counts), latents_after(encoder, test_steps, counts)

    with torch.inference_mode():
        trained = latents_of(model)
        attention = attention_after(model, test_steps, counts)
        untrained = [latents_of(encoder.to(device).eval()) for encoder in _random_encoders(config)]
    length = window_length(config)
    met = [share_met(test, count * length) for count in counts]
    return LatentProbe(
        task_ids=test_ids,
        fit_tasks=len(set(fit.task_ids)),
        fit_rollouts=len(fit.task_ids) // len(set(fit.task_ids)),
        untrained_encoders=UNTRAINED,
        counts=counts,
        targets=tuple(
            probe_place(name, columns, fit, test, trained, untrained)
            for name, columns in test.family.probed_places.items()
        ),
        found=tuple(tuple(row.reshape(len(test_ids), -1).mean(axis=1).tolist()) for row in met),
        attention=tuple(tuple(row) for row in attention.tolist()),
        uniform=uniform_share(model.decoder.n_latent, length),
    )


def share_met(paths: Trajectories, steps: int) -> FloatArray:
    """(B,): the share of a task's places that gave a reward within so many steps; of one, 1 or 0."""
    family, rewarded = paths.family, paths.rewards[:, :steps] > 0
    needed = family.place_needed(paths.states[:, :steps])
    met = [(rewarded & (needed == place)).any(axis=1) for place in range(_n_places(family))]
    share: FloatArray = np.mean(met, axis=0)
    return share


def _n_places(family: AnyFamily) -> int:
    """Of the kind that has the most; 1 where nothing is looked for."""
    sizes: list[int] = [(part.stop - part.start) // 2 for part in family.probed_places.values()]
    return max([1, *sizes])


def probe_place(
    name: str,
    columns: slice,
    fit: Trajectories,
    test: Trajectories,
    trained: Latents,
    untrained: list[Latents],
) -> Target:
    """Fit and test the probe of a place, or of several of one kind, in ``columns`` of the goals."""
    fit_goals, test_goals = (t.family.goals(t.task_ids)[:, columns].astype(float) for t in (fit, test))
    fit_tasks = np.array(fit.task_ids)
    n_tasks = len(set(test.task_ids))
    mean = fit_goals.mean(axis=0)

    def moves(predicted: FloatArray) -> FloatArray:
        """(tasks,): mean distance on the grid, over roll-outs and places."""
        distance = np.abs(predicted - test_goals).sum(axis=1) / (test_goals.shape[1] // 2)
        means: FloatArray = distance.reshape(n_tasks, -1).mean(axis=1)
        return means

    def read(latents: Latents) -> tuple[FloatArray, FloatArray]:
        """Distances (counts, tasks) and explained variance (counts,)."""
        distances, explained = [], []
        for x_fit, x_test in zip(*latents, strict=True):
            predicted = fit_ridge(x_fit, fit_goals, fit_tasks)(x_test)
            distances.append(moves(predicted))
            explained.append(1 - ((predicted - test_goals) ** 2).sum() / ((mean - test_goals) ** 2).sum())
        return np.array(distances), np.array(explained)

    distances, explained = read(trained)
    baselines = [read(latents) for latents in untrained]
    baseline_distances: npt.NDArray[np.float64] = np.mean([part for part, _ in baselines], axis=0)
    return Target(
        name=name,
        trained=tuple(map(tuple, distances.tolist())),
        untrained=tuple(map(tuple, baseline_distances.tolist())),
        chance=tuple(moves(np.broadcast_to(mean, test_goals.shape)).tolist()),
        r2=tuple(explained.tolist()),
        r2_untrained=tuple(np.mean([part for _, part in baselines], axis=0).tolist()),
    )


def _random_encoders(config: Config) -> list[CompressedAD]:
    models = []
    for number in range(UNTRAINED):
        with torch.random.fork_rng(devices=[]):
            # Larger than the seeds that trainings use.
            torch.manual_seed(1_000_003 * (config.seed + 1) + number)
            model = build_model(config)
        assert isinstance(model, CompressedAD)
        models.append(model)
    return models
