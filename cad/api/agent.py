"""A trained model that is stepped by hand."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from cad.envs.arrays import IntArray
from cad.envs.batched import Environments
from cad.envs.family import AnyFamily
from cad.envs.registry import task_family
from cad.errors import CadError, UsageError
from cad.evaluation.replay import rollout_keys
from cad.evaluation.rollout import ActionSampler, Player
from cad.experiments.plan.directory import StageFile, checked_if_recorded
from cad.experiments.run.resources import pick_device
from cad.experiments.run.trained_model import model_with
from cad.models.memory import Memory
from cad.models.network import SequenceModel
from cad.schema import Config
from cad.storage import given_path
from cad.training.transfer import read_weights


def load_agent(path: str | Path, *, device: str = "auto", **evaluation: object) -> Agent:
    """A trained model as an agent.

    Args:
        path: a file of ``cad export``, a training's ``model.safetensors``, or that training's directory.
        device: cpu, cuda, cuda:N or auto.
        evaluation: settings of the section ``evaluation`` to replace, such as ``temperature=0.7``.

    Raises :class:`CadError` for a file that is missing, damaged or not of cad, or a setting that is wrong.

    Examples:
        >>> agent = cad.load_agent("model.safetensors", temperature=0.7)
        >>> agent.config.model.kind, agent.config.evaluation.temperature
        ('compressed_ad', 0.7)
    """
    file = given_path("path", path)
    if file.is_dir():
        file /= StageFile.MODEL
    weights = read_weights(checked_if_recorded(file))
    settings = {f"evaluation.{key}": value for key, value in evaluation.items()}
    config = weights.config.with_overrides(settings, "load_agent")
    return Agent(model_with(weights, config).to(pick_device(device)).eval(), config)


class AgentMemory:
    """What an agent keeps between steps, to look at.

    Examples:
        >>> agent = cad.load_agent("model.safetensors")
        >>> agent.reset(2)
        >>> agent.memory.latents.shape, agent.memory.compressions.tolist()
        ((2, 2, 16), [0, 0])
    """

    def __init__(self, memory: Memory, batch: int) -> None:
        self._memory, self._batch = memory, batch

    @property
    def latents(self) -> npt.NDArray[np.float32] | None:
        """What is known of steps that are kept no longer, (batch, latents, width); a copy.

        None for models that compress nothing.  Recurrent models have their state here, (batch, ...).
        """
        compressed = self._memory.compressed
        return None if compressed is None else compressed.detach().float().cpu().numpy().copy()

    @property
    def compressions(self) -> IntArray:
        """Compressions so far, (batch,)."""
        counts: IntArray = np.broadcast_to(self._memory.compressions, self._batch).astype(np.int64)
        return counts

    @property
    def state_bytes(self) -> int:
        """Bytes that are kept for each member of the batch; they do not grow."""
        return self._memory.state_bytes


class Agent:
    """A trained model that learns in context: call :meth:`reset` once, then :meth:`act` at every step.

    Its memory lasts over episodes.  What it does is what ``cad evaluate`` lets it do, but for
    ``evaluation.knock_out`` and ``evaluation.demonstrated_episodes``, which are left out.

    Examples:
        >>> agent = cad.load_agent("model.safetensors")
        >>> env = agent.environments()
        >>> agent.reset(tasks=env.task_ids)
        >>> action = agent.act(env.reset())
        >>> for step in range(30):  # three episodes
        ...     after = env.advance(action)
        ...     action = agent.act(after.observed, after.rewards, after.terminated, after.truncated)
        >>> agent.episodes.tolist(), action.shape
        ([3, 3, 3], (3,))
    """

    def __init__(self, model: SequenceModel, config: Config) -> None:
        self.config = config
        """The config that the model was trained with."""
        self._model = model
        self._family = task_family(config.evaluated_env)
        self._player: Player | None = None
        self.episodes: IntArray = np.zeros(0, dtype=np.int64)
        """Episodes that have ended, (batch,)."""

    @property
    def family(self) -> AnyFamily:
        """The task family: spaces, tasks, their optimum."""
        return self._family

    @property
    def n_actions(self) -> int:
        """Actions are whole numbers below this."""
        return self._family.spaces.n_actions

    @property
    def memory(self) -> AgentMemory:
        """What it keeps since :meth:`reset`."""
        return AgentMemory(self._playing.memory, len(self.episodes))

    @property
    def _playing(self) -> Player:
        if self._player is None:
            raise UsageError("call agent.reset(batch) before anything else of the agent")
        return self._player

    def environments(self, tasks: Sequence[int] | None = None) -> Environments:
        """Environments of the family, (batch,) as the ``tasks`` (default: those that are evaluated).

        They are those of ``evaluation.env`` where it changes something, such as ``{"horizon": 40}``.
        A task may be named several times.  Chance in them is that of ``cad evaluate``.
        """
        chosen = self.config.evaluated_tasks if tasks is None else tuple(map(int, tasks))
        wrong = sorted(set(chosen) - set(self._family.task_ids))
        if wrong:
            raise UsageError(f"tasks={wrong}: {self.config.env.in_words()} has no such task")
        seed = self.config.evaluation.seed
        keys = np.concatenate(
            [rollout_keys(seed, [task], 1, first=member) for task, member in _numbered(chosen)]
        )
        return self._family.environments(np.array(chosen), keys)

    def reset(
        self,
        batch: int | None = None,
        *,
        tasks: Sequence[int] | IntArray | None = None,
        seed: int | None = None,
    ) -> None:
        """Forget everything; from now on, act in ``batch`` environments at once (default 1).

        Args:
            batch: number of environments; None with ``tasks``.
            tasks: their canonical ids: actions are drawn as ``cad evaluate`` draws them in these tasks
                (the n-th of equal ids as in a task's n-th roll-out).  Default: all 0.  The ids decide draws
                alone; they tell the model nothing.
            seed: of the draws; default ``evaluation.seed``.
        """
        if tasks is not None and batch not in (None, len(tasks)):
            raise UsageError(f"batch={batch}, but {len(tasks)} tasks; leave batch out")
        size = len(tasks) if tasks is not None else 1 if batch is None else batch
        if size < 1:
            raise UsageError(f"batch={size}: at least one environment is needed")
        rollouts = _numbered([0] * size if tasks is None else [int(task) for task in tasks])
        settings = self.config.evaluation
        sampler = ActionSampler(
            rollouts, settings.seed if seed is None else seed, settings.temperature_at, settings.greedy,
            self._family.horizon, next(self._model.parameters()).device,
        )  # fmt: skip
        self.episodes = np.zeros(size, dtype=np.int64)
        with torch.inference_mode():
            self._player = Player(self._model, self._family.spaces, sampler, size)
        sampler.start_episodes(self.episodes)

    def act(
        self,
        observation: npt.ArrayLike,
        reward: npt.ArrayLike | None = None,
        terminated: npt.ArrayLike | None = None,
        truncated: npt.ArrayLike | None = None,
    ) -> IntArray:
        """The next actions, (batch,) int64.

        Args:
            observation: (batch, numbers of an observation), or (batch,) of a single number: what is seen
                now, after an episode's end the first of the next one.
            reward: (batch,) what the actions before gave; None in the first call after :meth:`reset`.
            terminated: (batch,) whether the task ended the episode with them; default nowhere.
            truncated: (batch,) whether the time limit did; default nowhere.

        Raises :class:`CadError` for values that are not in the family's spaces.
        """
        player, n, spaces = self._playing, len(self.episodes), self._family.spaces
        given = np.asarray(observation)
        if spaces.width == 1 and given.ndim == 1:
            given = given[:, None]
        seen = _shaped("observation", given, (n, spaces.width))
        if not np.isfinite(seen).all():
            raise CadError("observation has values that are no finite numbers")
        whole = seen[:, : spaces.n_fields]
        if (whole != np.floor(whole)).any() or (whole < 0).any() or (whole >= spaces.field_sizes).any():
            limits = ", ".join(
                f"{a} 0..{b - 1}" for a, b in zip(spaces.field_names, spaces.field_sizes, strict=True)
            )
            raise CadError(f"observation is not in {limits}")
        seen = seen.astype(np.float32 if spaces.n_reals else np.int64)
        if (reward is None) != (player.steps == 0):
            raise UsageError(
                "the first act after reset has no reward yet: leave it out"
                if player.steps == 0
                else f"reward is missing: what did the actions of step {player.steps} give?"
            )
        with torch.inference_mode():
            if reward is not None:
                self._receive(player, reward, terminated, truncated)
            return player.act(seen)

    def _receive(
        self,
        player: Player,
        reward: npt.ArrayLike,
        terminated: npt.ArrayLike | None,
        truncated: npt.ArrayLike | None,
    ) -> None:
        n, spaces = len(self.episodes), self._family.spaces
        rewards = _shaped("reward", reward, (n,))
        if not np.isfinite(rewards).all():
            raise CadError("reward has values that are no finite numbers")
        if spaces.n_rewards and spaces.reward_values is None:
            wrong = rewards[(rewards != np.floor(rewards)) | (rewards < 0) | (rewards >= spaces.n_rewards)]
            if wrong.size:
                raise CadError(f"reward is {wrong[0]:g}; it is a whole number in 0..{spaces.n_rewards - 1}")
        ended = np.zeros(n, dtype=bool)
        for name, flags in (("terminated", terminated), ("truncated", truncated)):
            if flags is not None:
                ended |= _shaped(name, flags, (n,)).astype(bool)
        player.receive(rewards.astype(np.float32), ended if ended.any() else None)
        if ended.any():
            self.episodes = self.episodes + ended
            player.sampler.start_episodes(self.episodes)


def _numbered(tasks: Sequence[int]) -> list[tuple[int, int]]:
    """Each task, and how many of its id came before."""
    seen: Counter[int] = Counter()
    numbered = []
    for task in tasks:
        numbered.append((task, seen[task]))
        seen[task] += 1
    return numbered


def _shaped(name: str, values: npt.ArrayLike, shape: tuple[int, ...]) -> npt.NDArray[Any]:
    array = np.asarray(values)
    if array.shape != shape:
        raise CadError(f"{name} has shape {array.shape}; it has to be {shape}")
    return array.astype(np.float64)
