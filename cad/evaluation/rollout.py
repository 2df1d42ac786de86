"""In-context roll-outs: many tasks, many roll-outs, many episodes, no weight update.

The model's memory is kept across episodes.  Every roll-out draws its actions from its own
generator, so that its returns do not depend on the rest of the batch.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cad.envs.batched import BatchedEnv
from cad.envs.family import AnyFamily
from cad.evaluation.compression_steps import CompressionEvent, CompressionRecorder
from cad.evaluation.replay import rollout_keys
from cad.histories.batch import Steps
from cad.interrupt import StopFlag
from cad.models.memory import Memory
from cad.models.network import SequenceModel
from cad.models.registry import new_memory

# Separates the roll-outs' random numbers from other uses of the same seed.
_STREAM = 0xE7


@dataclass(frozen=True)
class RolloutResult:
    """Outcome of an evaluation.

    ``returns`` is (tasks, roll-outs, episodes): sums of rewards.  ``compressions`` is (tasks,
    roll-outs).  ``state_bytes`` is the size of one roll-out's memory between steps; it is constant.
    ``compression_steps`` (tasks, roll-outs, most compressions) are the steps, counted from the start of
    the roll-out, after which it compressed; ``chosen`` marks the compressions that the model itself
    asked for.  -1 and False fill roll-outs that compressed less often.  Both are None in results
    written before these fields existed.  ``actions`` (tasks, roll-outs, steps) determine everything
    else (:mod:`cad.evaluation.replay`); None in results read from a file.  ``facts`` and ``optima`` are
    shaped as ``returns``: the fact of its task that an episode needed, and its greatest possible return;
    None where tasks have one fact.
    """

    task_ids: tuple[int, ...]
    returns: npt.NDArray[np.float32]
    compressions: npt.NDArray[np.int64]
    horizon: int
    state_bytes: int
    seconds: float
    compression_steps: npt.NDArray[np.int32] | None = None
    chosen: npt.NDArray[np.bool_] | None = None
    actions: npt.NDArray[np.uint8] | None = None
    facts: npt.NDArray[np.int16] | None = None
    optima: npt.NDArray[np.float32] | None = None

    def shares(self, family: AnyFamily) -> npt.NDArray[np.float64]:
        """Returns (tasks, roll-outs, episodes) over the optimum: the episode's, where it has its own."""
        optima: npt.NDArray[np.floating] | None = self.optima
        if optima is None:
            optima = np.array([family.optimal_return(task) for task in self.task_ids])[:, None, None]
        shares: npt.NDArray[np.float64] = self.returns / optima.astype(np.float64)
        return shares

    @property
    def steps_per_second(self) -> float:
        """Environment steps of all roll-outs per second of wall time."""
        return self.returns.size * self.horizon / self.seconds


Temperature = float | Callable[[int], float]
"""One for all episodes, or a function of the episode, counted from 0."""


class ActionSampler:
    """Chooses actions from logits: greedy, or sampled at a temperature with one generator per roll-out."""

    def __init__(
        self, task_ids: Sequence[int], n_rollouts: int, seed: int, temperature: Temperature, greedy: bool
    ) -> None:
        self._schedule = temperature
        self._temperature = 1.0
        self._greedy = greedy
        self._generators = [
            np.random.default_rng([seed, _STREAM, task, rollout])
            for task in task_ids
            for rollout in range(n_rollouts)
        ]
        self._uniform = torch.empty(0)

    def start_episode(self, horizon: int, device: torch.device, episode: int = 0) -> None:
        """Draw all random numbers of an episode."""
        if not self._greedy:
            self._temperature = self._schedule(episode) if callable(self._schedule) else self._schedule
            drawn = np.stack([g.random(horizon, dtype=np.float32) for g in self._generators], axis=1)
            self._uniform = torch.from_numpy(drawn[..., None]).to(device)

    def choose(self, logits: Tensor, t: int) -> Tensor:
        """Actions (B,) at step ``t`` of the episode from logits (B, actions)."""
        if self._greedy:
            return logits.argmax(dim=-1)
        cumulative = torch.softmax(logits.float() / self._temperature, dim=-1).cumsum(dim=-1)
        # Without the last entry: rounding must not lead past the last action.
        return (cumulative[:, :-1] <= self._uniform[t]).sum(dim=-1)


def roll_out(
    model: SequenceModel,
    family: AnyFamily,
    task_ids: Sequence[int],
    *,
    n_rollouts: int,
    n_episodes: int,
    seed: int,
    temperature: Temperature = 1.0,
    greedy: bool = False,
    stop: StopFlag | None = None,
    progress: Callable[[int], None] | None = None,
    on_compress: Callable[[CompressionEvent], None] | None = None,
    before_episode: Callable[[int, Memory], None] | None = None,
    memory: Callable[[SequenceModel, int], Memory] = new_memory,
) -> RolloutResult:
    """Roll ``model`` (in eval mode, on its device) out in every task ``n_rollouts`` times.

    ``progress`` is called with the number of finished episodes, ``on_compress`` with every
    compression as it happens, ``before_episode`` with each episode, counted from 0, and the memory before
    its first step.  ``memory`` makes the in-context state (tests compare the cached one
    with an uncached one).  Raises :class:`~cad.interrupt.InterruptedRun` between two episodes when
    ``stop`` is set.
    """
    device = next(model.parameters()).device
    env = BatchedEnv(
        family, np.repeat(np.asarray(task_ids), n_rollouts), rollout_keys(seed, task_ids, n_rollouts)
    )
    B = len(env)
    sampler = ActionSampler(task_ids, n_rollouts, seed, temperature, greedy)
    returns = np.zeros((n_episodes, B), dtype=np.float32)
    facts = np.zeros((n_episodes, B), dtype=np.int16)
    optima = np.zeros((n_episodes, B), dtype=np.float32)
    actions = np.zeros((n_episodes * family.horizon, B), dtype=np.uint8)
    recorder = CompressionRecorder(task_ids, n_rollouts, family.horizon, on_compress)
    started = time.perf_counter()
    with torch.inference_mode():
        state = memory(model, B)
        previous_action = torch.full((B, 1), family.spaces.n_actions, device=device)
        previous_reward = torch.zeros((B, 1), dtype=torch.int64, device=device)
        first = {flag: torch.full((B, 1), int(flag), device=device) for flag in (True, False)}
        for episode in range(n_episodes):
            if stop is not None:
                stop.raise_if_set(f"evaluation (episode {episode} of {n_episodes})")
            if before_episode is not None:
                before_episode(episode, state)
            sampler.start_episode(family.horizon, device, episode)
            observation = env.reset()
            if family.n_facts > 1:
                facts[episode] = env.facts
                optima[episode] = family.episode_optimum(env.goals, env.facts)
            for t in range(family.horizon):
                current = torch.from_numpy(observation)[:, None].to(device)
                logits = state.observe(Steps(current, previous_action, previous_reward, first[t == 0]))
                # A memory compresses before it adds a step.
                recorder.observe(episode * family.horizon + t, state)
                action = sampler.choose(logits, t)
                taken = action.cpu().numpy()
                actions[episode * family.horizon + t] = taken
                observation, reward, _ = env.step(taken)
                returns[episode] += reward
                previous_action = action[:, None]
                previous_reward = torch.from_numpy(reward)[:, None].to(device, torch.int64)
            if progress:
                progress(episode + 1)
    seconds = time.perf_counter() - started
    shape = (len(task_ids), n_rollouts)
    compression_steps, chosen = recorder.compression_steps()
    return RolloutResult(
        task_ids=tuple(task_ids),
        returns=np.ascontiguousarray(returns.T).reshape(*shape, n_episodes),
        compressions=np.broadcast_to(state.compressions, B).reshape(shape).astype(np.int64),
        horizon=family.horizon,
        state_bytes=state.state_bytes,
        seconds=seconds,
        compression_steps=compression_steps,
        chosen=chosen,
        actions=np.ascontiguousarray(actions.T).reshape(*shape, -1),
        facts=np.ascontiguousarray(facts.T).reshape(*shape, -1) if family.n_facts > 1 else None,
        optima=np.ascontiguousarray(optima.T).reshape(*shape, -1) if family.n_facts > 1 else None,
    )
