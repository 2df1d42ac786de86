"""What latents hold: a linear probe for the hidden places of a task, and the attention that they get.

The probe is ridge regression (closed form: no optimiser whose settings could favour one cell) from
all latents of a roll-out to the row and column of the goal.  One is fitted behind each of several
numbers of compressions, on roll-outs in *training* tasks, and read in tasks that were held out.
Three things stand beside it, on the same roll-outs: the mean of the training goals (what can be
said without looking), and the same probe of encoders with fresh weights (what any mixing of the
last steps' embeddings gives away).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cad.config.schema import N_ACTIONS, Config
from cad.envs.tasks import TaskFamily
from cad.evaluation.attention import latent_shares, uniform_share
from cad.evaluation.paths import Paths
from cad.evaluation.probe_result import LatentProbe, Target
from cad.evaluation.ridge import FloatArray, fit_ridge
from cad.histories.batch import Steps
from cad.models import CompressedAD, build_model

COUNTS = (1, 2, 3, 4, 6, 8, 12, 16, 24)
"""Numbers of compressions behind which latents are probed, as far as roll-outs get."""
FIT_TASKS = 100
FIT_ROLLOUTS = 4
UNTRAINED = 3  # encoders with fresh weights, averaged
_ATTENTION_BATCH = 64  # roll-outs whose attention is kept in memory at a time


def why_no_probe(config: Config) -> str | None:
    """Why a cell has nothing to probe; None if it has."""
    if config.model.kind == "region_ad":
        return "not for region_ad: its roll-outs compress at different steps"
    if config.model.kind == "ad" or not config.model.max_compression_depth:
        return "no latents"
    if not probed_counts(config):
        return (
            f"roll-outs of {config.evaluation.n_episodes} episodes never decode a whole window behind "
            "a compression"
        )
    return None


def probed_counts(config: Config) -> tuple[int, ...]:
    """Those of :data:`COUNTS` behind which a whole window is still decoded in an evaluation."""
    steps = config.evaluation.n_episodes * config.env.steps_per_episode
    windows = steps // config.model.compress_lengths[1]
    return tuple(count for count in COUNTS if count < windows)


def fit_episodes(config: Config) -> int:
    """Episodes of a roll-out after which the last probed window is whole."""
    needed = (probed_counts(config)[-1] + 1) * config.model.compress_lengths[1]
    return -(-needed // config.env.steps_per_episode)


def probe_latents(config: Config, model: CompressedAD, fit: Paths, test: Paths) -> LatentProbe:
    """Probe ``model`` (in eval mode); the roll-outs of ``fit`` are in training tasks.

    ``test`` holds equally many roll-outs of each of its tasks, one task after the other; what the
    paths have beyond the last probed window is not looked at.
    """
    counts = probed_counts(config)
    test_ids = tuple(dict.fromkeys(test.task_ids))
    device = next(model.parameters()).device
    fit_steps, test_steps = as_steps(fit).to(device), as_steps(test).to(device)
    with torch.inference_mode():
        trained = latents_behind(model, fit_steps, counts), latents_behind(model, test_steps, counts)
        attention = _attention(model, test_steps, counts)
        untrained = []
        for encoder in _fresh(config):
            encoder.to(device).eval()
            untrained.append(
                (latents_behind(encoder, fit_steps, counts), latents_behind(encoder, test_steps, counts))
            )
    length = config.model.compress_lengths[1]
    found = [test.rewards[:, : count * length].any(axis=1) for count in counts]
    return LatentProbe(
        task_ids=test_ids,
        fit_tasks=len(set(fit.task_ids)),
        fit_rollouts=len(fit.task_ids) // len(set(fit.task_ids)),
        untrained_encoders=UNTRAINED,
        counts=counts,
        targets=tuple(
            _target(name, columns, fit, test, trained, untrained)
            for name, columns in places(test.family).items()
        ),
        found=tuple(tuple(row.reshape(len(test_ids), -1).mean(axis=1).tolist()) for row in found),
        attention=tuple(tuple(row) for row in attention.tolist()),
        uniform=uniform_share(model.decoder.n_latent, length),
    )


def places(family: TaskFamily) -> dict[str, slice]:
    """The hidden places of a family's tasks: which parts of a goal are row and column of what."""
    if family.name == "darkroom":
        return {"goal": slice(0, 2)}
    return {"key": slice(0, 2), "door": slice(2, 4)} if family.name == "dark_key_to_door" else {}


def as_steps(paths: Paths) -> Steps:
    """What a model saw in roll-outs: fields (B, T)."""
    actions = torch.from_numpy(paths.actions.astype(np.int64))
    rewards = torch.from_numpy(paths.rewards)
    previous_action, previous_reward = actions.roll(1, dims=1), rewards.roll(1, dims=1)
    previous_action[:, 0], previous_reward[:, 0] = N_ACTIONS, 0
    first = (torch.arange(actions.shape[1]) % paths.family.horizon == 0).long()
    return Steps(torch.from_numpy(paths.states), previous_action, previous_reward, first.expand_as(actions))


def latents_behind(model: CompressedAD, steps: Steps, counts: Sequence[int]) -> FloatArray:
    """All latents of each roll-out after each of ``counts`` (rising) compressions: (counts, B, d)."""
    kept, latents = [], model.initial_latents(len(steps.first))
    for k in range(counts[-1]):
        latents = model.encoder(latents, model.embed(_window(model, steps, k)))
        if k + 1 in counts:
            kept.append(latents.flatten(1))
    return torch.stack(kept).double().cpu().numpy()


def _window(model: CompressedAD, steps: Steps, k: int) -> Steps:
    """The ``k``-th window that a roll-out fills."""
    length = model.config.compress_lengths[1]
    part = slice(k * length, (k + 1) * length)
    return Steps(
        steps.observation[:, part],
        steps.previous_action[:, part],
        steps.previous_reward[:, part],
        steps.first[:, part],
    )


def _attention(model: CompressedAD, steps: Steps, counts: Sequence[int]) -> Tensor:
    """(layers, 1 + counts): mean share of attention on the latents behind 0 and ``counts`` compressions."""
    latents = model.initial_latents(len(steps.first))
    means = []
    for k in range(counts[-1] + 1):
        window = model.embed(_window(model, steps, k))
        if k == 0 or k in counts:
            parts = [
                latent_shares(model, window[i : i + _ATTENTION_BATCH], latents[i : i + _ATTENTION_BATCH])
                for i in range(0, len(window), _ATTENTION_BATCH)
            ]
            means.append(torch.cat([part.mean(dim=(2, 3)) for part in parts], dim=1).double().mean(dim=1))
        latents = model.encoder(latents, window)
    return torch.stack(means, dim=1).cpu()


def _fresh(config: Config) -> list[CompressedAD]:
    models = []
    for number in range(UNTRAINED):
        with torch.random.fork_rng(devices=[]):
            # Behind the seeds that trainings use.
            torch.manual_seed(1_000_003 * (config.seed + 1) + number)
            model = build_model(config)
        assert isinstance(model, CompressedAD)
        models.append(model)
    return models


Latents = tuple[FloatArray, FloatArray]
"""Of the roll-outs to fit and to test: (counts, B, d) each."""


def _target(
    name: str, columns: slice, fit: Paths, test: Paths, trained: Latents, untrained: list[Latents]
) -> Target:
    fit_goals, test_goals = (p.family.goals(p.task_ids)[:, columns].astype(float) for p in (fit, test))
    fit_tasks = np.array(fit.task_ids)
    n_tasks = len(set(test.task_ids))
    mean = fit_goals.mean(axis=0)

    def moves(predicted: FloatArray) -> FloatArray:
        """(tasks,): mean distance on the grid."""
        distance: FloatArray = np.abs(predicted - test_goals).sum(axis=1).reshape(n_tasks, -1).mean(axis=1)
        return distance

    def read(latents: Latents) -> tuple[FloatArray, FloatArray]:
        """Distances (counts, tasks) and explained variance (counts,)."""
        distances, explained = [], []
        for x_fit, x_test in zip(*latents, strict=True):
            predicted = fit_ridge(x_fit, fit_goals, fit_tasks)(x_test)
            distances.append(moves(predicted))
            explained.append(1 - ((predicted - test_goals) ** 2).sum() / ((mean - test_goals) ** 2).sum())
        return np.array(distances), np.array(explained)

    distances, explained = read(trained)
    fresh = [read(latents) for latents in untrained]
    fresh_distances: npt.NDArray[np.float64] = np.mean([part for part, _ in fresh], axis=0)
    return Target(
        name=name,
        trained=tuple(map(tuple, distances.tolist())),
        untrained=tuple(map(tuple, fresh_distances.tolist())),
        chance=tuple(moves(np.broadcast_to(mean, test_goals.shape)).tolist()),
        r2=tuple(explained.tolist()),
        r2_untrained=tuple(np.mean([part for _, part in fresh], axis=0).tolist()),
    )
