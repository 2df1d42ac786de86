"""In-context roll-outs: many tasks, many roll-outs, many episodes, no weight update.

The model's memory is kept across episodes.  Every roll-out draws its actions from its own
generator, so that its returns do not depend on the rest of the batch.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cad.envs.arrays import BoolArray, IntArray
from cad.envs.family import AnyFamily, Spaces
from cad.evaluation.compression_steps import CompressionEvent, CompressionRecorder
from cad.evaluation.saved_rollout import RolloutFile, SavedRollout, memory_arrays, restore_memory
from cad.evaluation.stepping import Received, Rollouts, as_models_take, start_stepping
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
    None where tasks have one fact.  ``lengths``, shaped as ``returns``, are steps of each episode; None where
    all last ``horizon`` steps.  A roll-out that has had its episodes before others of its batch is not
    counted further: its actions after that are 0.
    """

    task_ids: tuple[int, ...]
    returns: npt.NDArray[np.float32]
    compressions: npt.NDArray[np.int64]
    horizon: int
    state_bytes: int
    seconds: float
    compression_steps: npt.NDArray[np.int32] | None = None
    chosen: npt.NDArray[np.bool_] | None = None
    actions: npt.NDArray[Any] | None = None
    facts: npt.NDArray[np.int16] | None = None
    optima: npt.NDArray[np.float32] | None = None
    lengths: npt.NDArray[np.int32] | None = None

    def shares(self, family: AnyFamily) -> npt.NDArray[np.float64]:
        """Returns (tasks, roll-outs, episodes) over the optimum: the episode's, where it has its own.

        See :meth:`~cad.envs.family.TaskFamily.score`.
        """
        optima: npt.NDArray[np.floating] | None = self.optima
        if optima is None:
            optima = np.array([family.optimal_return(task) for task in self.task_ids])[:, None, None]
        return family.score(self.returns, optima)

    @property
    def steps_per_second(self) -> float:
        """Environment steps of all roll-outs per second of wall time."""
        steps = self.returns.size * self.horizon if self.lengths is None else int(self.lengths.sum())
        return steps / self.seconds


BeforeEpisodes = Callable[[npt.NDArray[np.int64], npt.NDArray[np.bool_], Memory], None]
"""Called with (roll-outs,) episodes, (roll-outs,) whether they begin now, and the memory."""

Temperature = float | Callable[[int], float]
"""One for all episodes, or a function of the episode, counted from 0."""


class ActionSampler:
    """Chooses actions from logits: greedy, or sampled at a temperature with one generator per roll-out.

    A roll-out (task id, its number in the task) has the same draws in every batch.  Random numbers are
    drawn for ``block`` steps of a roll-out at a time, wherever its episodes end.
    """

    def __init__(
        self,
        rollouts: Sequence[tuple[int, int]],
        seed: int,
        temperature: Temperature,
        greedy: bool,
        block: int,
        device: torch.device,
    ) -> None:
        self._schedule = temperature
        self._temperature: float | Tensor = 1.0
        self._greedy = greedy
        self._block, self._device = block, device
        self._generators = [
            np.random.default_rng([seed, _STREAM, task, rollout]) for task, rollout in rollouts
        ]
        self._uniform = torch.empty(0)

    def start_episodes(self, episodes: npt.NDArray[np.int64]) -> None:
        """Take the temperature of the episodes (B,) that the roll-outs are in."""
        if not callable(self._schedule):
            self._temperature = self._schedule
        elif (episodes == episodes[0]).all():
            self._temperature = self._schedule(int(episodes[0]))
        else:
            each = [[self._schedule(int(episode))] for episode in episodes]
            self._temperature = torch.tensor(each, device=self._device)

    def skip(self, steps: int) -> None:
        """Draw what ``steps`` steps, a multiple of the block, have used, so that the next ones go on."""
        if not self._greedy:
            for generator in self._generators:
                for _ in range(steps // self._block):
                    generator.random(self._block, dtype=np.float32)

    def choose(self, logits: Tensor, step: int) -> Tensor:
        """Actions (B,) at a ``step`` of the roll-outs, counted from 0, from logits (B, actions)."""
        if self._greedy:
            return logits.argmax(dim=-1)
        t = step % self._block
        if t == 0:
            drawn = np.stack([g.random(self._block, dtype=np.float32) for g in self._generators], axis=1)
            self._uniform = torch.from_numpy(drawn[..., None]).to(self._device)
        cumulative = torch.softmax(logits.float() / self._temperature, dim=-1).cumsum(dim=-1)
        # Without the last entry: rounding must not lead past the last action.
        return (cumulative[:, :-1] <= self._uniform[t]).sum(dim=-1)


class Player:
    """A model that acts in B environments step by step: its memory, its draws, what it did and got last.

    Args:
        model: in eval mode, on its device.
        spaces: of the environments.
        sampler: chooses the actions; it draws for B roll-outs.
        batch: B.
        memory: makes the in-context state.
    """

    def __init__(
        self,
        model: SequenceModel,
        spaces: Spaces,
        sampler: ActionSampler,
        batch: int,
        memory: Callable[[SequenceModel, int], Memory] = new_memory,
    ) -> None:
        self._device = next(model.parameters()).device
        self._spaces, self.sampler = spaces, sampler
        self.memory = memory(model, batch)
        self.steps = 0
        """Steps so far."""
        self._action = torch.full((batch, 1), spaces.n_actions, device=self._device)
        # Without a reward before it a step has that which is 0, or numbered 0.
        reward_type = torch.int64 if spaces.n_rewards else torch.float32
        self._reward = torch.zeros((batch, 1), dtype=reward_type, device=self._device)
        self._first = torch.full((batch, 1), 1, device=self._device)
        self._not_first = torch.zeros_like(self._first)

    def choose(self, observation: Tensor) -> Tensor:
        """Take in what is observed (B, fields), on the device; the actions (B,) int64."""
        steps = Steps(observation[:, None], self._action, self._reward, self._first)
        action = self.sampler.choose(self.memory.observe(steps), self.steps)
        self._action, self.steps = action[:, None], self.steps + 1
        return action

    def take_instead(self, action: Tensor) -> None:
        """Actions (B,) that were taken in place of the chosen ones: the model sees them as its own."""
        self._action = action[:, None]

    def repeat(self, action: Tensor) -> None:
        """Take actions (B,) that were chosen before; what the memory knows by then is restored later."""
        self._action, self.steps = action[:, None], self.steps + 1

    def take_in(self, received: Received) -> None:
        """Take in what the actions led to."""
        self._reward, self._first = received.reward, received.first

    def act(self, observation: npt.NDArray[Any]) -> IntArray:
        """:meth:`choose` with arrays on the host."""
        taken: IntArray = self.choose(torch.from_numpy(observation).to(self._device)).cpu().numpy()
        return taken

    def receive(self, rewards: npt.NDArray[Any], ended: BoolArray | None) -> None:
        """Take in the rewards (B,) of the actions, and which episodes ``ended`` (B,); None: none did."""
        self._reward = as_models_take(self._spaces, rewards, self._device)
        self._first = self._not_first
        if ended is not None:
            self._first = torch.from_numpy(ended.astype(np.int64))[:, None].to(self._device)


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
    before_episodes: BeforeEpisodes | None = None,
    demonstrated: int = 0,
    memory: Callable[[SequenceModel, int], Memory] = new_memory,
    file: RolloutFile | None = None,
) -> RolloutResult:
    """Roll ``model`` (in eval mode, on its device) out in every task ``n_rollouts`` times.

    All roll-outs step together, each through ``n_episodes`` episodes: where episodes end early, one that is
    done goes on, uncounted, until the last one is.  ``progress`` is called with the number of episodes that
    all have finished, ``on_compress`` with every compression as it happens.  ``before_episodes`` is called
    when an episode begins somewhere, with the episode of each roll-out, counted from 0, whether it begins
    now, and the memory before its first step.  In the first ``demonstrated`` episodes of each roll-out the
    family's optimal actions are taken in place of the model's, which sees them as its own; random numbers
    are drawn there too, so that each later step has those that it has without a demonstration.  ``memory``
    makes the in-context state (tests compare the cached one with an uncached one).  Raises
    :class:`~cad.interrupt.InterruptedRun` between two episodes when ``stop`` is set.  With a ``file``, the
    state is saved there now and then, and when it stops; a
    roll-out that was saved goes on, with the same result.
    """
    device = next(model.parameters()).device
    worlds = start_stepping(Rollouts(family, task_ids, n_rollouts, n_episodes, seed, device), demonstrated)
    B, n_facts, spaces = len(worlds.episode), family.n_facts, family.spaces
    sampler = ActionSampler(
        [(task, rollout) for task in task_ids for rollout in range(n_rollouts)],
        seed, temperature, greedy, family.horizon, device,
    )  # fmt: skip
    recorder = CompressionRecorder(
        task_ids, n_rollouts, None if family.ends_early else family.horizon, on_compress
    )
    with torch.inference_mode():
        player = Player(model, spaces, sampler, B, memory)
        saved = None if file is None else _load(file, player.memory)
        before = 0.0 if saved is None else saved.seconds
        replayed = 0 if saved is None else len(saved.actions)
        started = latest = time.perf_counter()
        while worlds.finished < n_episodes:
            step, finished = player.steps, worlds.finished
            if saved is not None and step == replayed:
                restore_memory(player.memory, saved.memory)
                recorder.restore(saved.compression_steps, saved.chosen, player.memory, worlds.playing)
                sampler.skip(replayed)
            live = step >= replayed
            # Where all episodes are of one length, between two of them.
            if live and step % family.horizon == 0:
                stopped, now = stop is not None and stop(), time.perf_counter()
                if file is not None and step > replayed and (stopped or now - latest > file.every):
                    latest = now
                    when, asked = recorder.record_by_rollout()
                    seconds = before + now - started
                    arrays = memory_arrays(player.memory)
                    file.save(SavedRollout(worlds.taken, arrays, when, asked, seconds))
                if stop is not None:
                    stop.raise_if_set(f"evaluation (episode {finished} of {n_episodes})")
            if worlds.begun:  # an episode, somewhere
                if before_episodes is not None and live:
                    before_episodes(worlds.episode, worlds.begins, player.memory)
                sampler.start_episodes(np.minimum(worlds.episode, n_episodes - 1))
            if saved is None or live:
                action = player.choose(worlds.observation)
                # A memory compresses before it adds a step.
                recorder.observe(step, player.memory, worlds.playing)
                if demonstrated:
                    action = worlds.demonstrate(action)
                    player.take_instead(action)
            else:
                action = torch.from_numpy(saved.actions[step].astype(np.int64)).to(device)
                player.repeat(action)
            player.take_in(worlds.step(action))
            if progress and live:
                for done in range(finished, worlds.finished):
                    progress(done + 1)
    seconds = before + time.perf_counter() - started
    shape = (len(task_ids), n_rollouts)
    compression_steps, chosen = recorder.compression_steps()

    def by_rollout(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return np.ascontiguousarray(array.T).reshape(*shape, -1)

    return RolloutResult(
        task_ids=tuple(task_ids),
        returns=by_rollout(worlds.returns),
        compressions=recorder.counts.reshape(shape),
        horizon=family.horizon,
        state_bytes=player.memory.state_bytes,
        seconds=seconds,
        compression_steps=compression_steps,
        chosen=chosen,
        actions=by_rollout(worlds.actions),
        facts=by_rollout(worlds.facts) if n_facts > 1 else None,
        optima=by_rollout(worlds.optima) if n_facts > 1 else None,
        lengths=by_rollout(worlds.lengths) if family.ends_early else None,
    )


def _load(file: RolloutFile, memory: Memory) -> SavedRollout | None:
    """What was saved; None also where memories of this version consist of other arrays."""
    saved = file.load()
    return saved if saved is None or saved.memory.keys() == memory_arrays(memory).keys() else None
