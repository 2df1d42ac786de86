"""A straightforward implementation of the same method, to compare speeds with.

Written the way public algorithm-distillation code usually is, from the libraries' own parts
(``DummyVecEnv``, ``Dataset`` and ``DataLoader``, ``nn.TransformerEncoder``):

* collection: one environment object per stream, stepped in a Python loop, default-like PPO settings;
* training: a sample is cut out of its history in Python and collated with the others; the loss is
  that of the sample's last action (or, to tell the algorithm from the code, of every one);
* roll-outs: nothing is cached, every step encodes the complete window again.

Nothing here is slowed down on purpose: the same width, layers, heads, window, latents, batch size
and number type as ours, one token per step, attention through PyTorch's fused kernel.  It shares no
code with ``cad.models``, ``cad.histories`` and ``cad.training``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import DummyVecEnv
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler

import cad.envs.gymnasium_env  # noqa: F401  (registers the environments)

N_ACTIONS = 5
GRID = 9
HORIZON = 20


def make_env(task_id: int) -> Callable[[], gym.Env[Any, Any]]:
    """A function that makes one Darkroom environment."""
    return lambda: gym.make(
        "cad.envs.gymnasium_env:cad/Darkroom-v0", task_id=task_id, disable_env_checker=True
    )


class HistoryLogger(BaseCallback):
    """Records observation, action and reward of every environment step of PPO."""

    def __init__(self) -> None:
        super().__init__()
        self.observations: list[npt.NDArray[Any]] = []
        self.actions: list[npt.NDArray[Any]] = []
        self.rewards: list[npt.NDArray[Any]] = []
        self.dones: list[npt.NDArray[Any]] = []

    def _on_step(self) -> bool:
        self.observations.append(self.locals["obs_tensor"].numpy().astype(np.uint8))
        self.actions.append(self.locals["actions"].astype(np.uint8))
        self.rewards.append(self.locals["rewards"].astype(np.uint8))
        self.dones.append(self.locals["dones"])
        return True


@dataclass(frozen=True)
class PPOSettings:
    """The PPO settings that differ between a careful choice and the usual one."""

    batch_size: int = 50
    n_epochs: int = 20
    learning_rate: float = 3e-4


def collect(task_id: int, n_streams: int, n_steps: int, updates: int, ppo: PPOSettings, seed: int) -> int:
    """Let PPO learn one task in ``n_streams`` environment objects; returns the transitions logged."""
    env = DummyVecEnv([make_env(task_id) for _ in range(n_streams)])
    model = PPO(
        "MlpPolicy",
        env,
        n_steps=n_steps,
        batch_size=ppo.batch_size,
        n_epochs=ppo.n_epochs,
        learning_rate=ppo.learning_rate,
        ent_coef=0.01,
        policy_kwargs={"net_arch": [64, 64]},
        seed=seed,
        device="cpu",
    )
    logger = HistoryLogger()
    model.learn(updates * n_steps * n_streams, callback=logger)
    env.close()
    return int(np.stack(logger.actions).size)


@dataclass(frozen=True)
class Size:
    """Shape of a model; ``n_latent`` 0 is plain AD."""

    window: int
    n_latent: int = 0
    depth: int = 0
    width: int = 64
    layers: int = 4
    heads: int = 4
    encoder_layers: int = 2


def _stack(size: Size, layers: int) -> nn.TransformerEncoder:
    layer = nn.TransformerEncoderLayer(
        size.width,
        size.heads,
        4 * size.width,
        dropout=0.0,
        activation="gelu",
        batch_first=True,
        norm_first=True,
    )
    return nn.TransformerEncoder(layer, layers, nn.LayerNorm(size.width), enable_nested_tensor=False)


class ReferenceModel(nn.Module):
    """[latents | steps] through a causal transformer; an encoder compresses a segment into the latents."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.size = size
        # Row, column, previous action, previous reward, first step of an episode.
        self.fields = nn.ModuleList(nn.Embedding(n, size.width) for n in (GRID, GRID, N_ACTIONS + 1, 2, 2))
        self.embedding_norm = nn.LayerNorm(size.width)
        total = size.n_latent + size.window
        self.positions = nn.Parameter(0.02 * torch.randn(total, size.width))
        self.decoder = _stack(size, size.layers)
        self.head = nn.Linear(size.width, N_ACTIONS)
        mask = torch.full((total, total), float("-inf")).triu(1)
        mask[: size.n_latent, : size.n_latent] = 0.0
        self.register_buffer("mask", mask)
        self.mask: Tensor
        if size.n_latent:
            self.encoder = _stack(size, size.encoder_layers)
            self.queries = nn.Parameter(0.02 * torch.randn(size.n_latent, size.width))
            self.first_latents = nn.Parameter(0.02 * torch.randn(size.n_latent, size.width))

    def embed(self, steps: Tensor) -> Tensor:
        """(B, T, 5) fields to (B, T, width)."""
        embedded = torch.stack([table(steps[..., i]) for i, table in enumerate(self.fields)])
        normed: Tensor = self.embedding_norm(embedded.sum(0))
        return normed

    def compress(self, latents: Tensor, steps: Tensor) -> Tensor:
        """Latents (B, n_latent, width) and steps (B, T, 5) to new latents (B, n_latent, width)."""
        queries = self.queries.expand(len(steps), -1, -1)
        context = (
            torch.cat([latents, self.embed(steps)], dim=1)
            + self.positions[: latents.shape[1] + steps.shape[1]]
        )
        new: Tensor = self.encoder(torch.cat([context, queries], dim=1))
        return new[:, -self.size.n_latent :]

    def start(self, batch: int) -> Tensor | None:
        """Latents of an empty past; None for AD."""
        return self.first_latents.expand(batch, -1, -1) if self.size.n_latent else None

    def last_logits(self, steps: Tensor, latents: Tensor | None) -> Tensor:
        """Logits (B, actions) of the last of the steps (B, T, 5)."""
        return self.logits(steps, latents)[:, -1]

    def logits(self, steps: Tensor, latents: Tensor | None) -> Tensor:
        """Logits (B, T, actions) of the steps (B, T, 5)."""
        x = self.embed(steps)
        if latents is not None:
            x = torch.cat([latents, x], dim=1)
        total = x.shape[1]
        x = self.decoder(x + self.positions[:total], mask=self.mask[:total, :total])
        logits: Tensor = self.head(x[:, total - steps.shape[1] :])
        return logits

    def forward(self, steps: Tensor, depth: int, segment: int) -> Tensor:
        """Logits of the last step after ``depth`` compressed segments of ``segment`` steps each."""
        latents = self.start(len(steps))
        for k in range(depth):
            assert latents is not None
            latents = self.compress(latents, steps[:, k * segment : (k + 1) * segment])
        return self.last_logits(steps[:, depth * segment :], latents)

    def every_step(self, steps: Tensor, depth: int, segment: int) -> Tensor:
        """Logits (B, T, actions) of all steps, each segment decoded after those before it are compressed."""
        latents, logits = self.start(len(steps)), []
        for k in range(depth + 1):
            own = steps[:, k * segment : (k + 1) * segment]
            logits.append(self.logits(own, latents))
            if latents is not None and k < depth:
                latents = self.compress(latents, own)
        return torch.cat(logits, dim=1)


Cut = tuple[int, int, int, int]
"""A sample: number of the history, first step, compression depth, segment length."""


Sample = tuple[Tensor, Tensor, int, int]
"""Fields (T, 5), actions (T,), compression depth, segment length."""


class HistoryDataset(Dataset[Sample]):
    """Cuts one sample out of its history."""

    def __init__(
        self,
        observations: npt.NDArray[np.uint8],
        actions: npt.NDArray[np.uint8],
        rewards: npt.NDArray[np.uint8],
    ) -> None:
        self.observations, self.actions, self.rewards = observations, actions, rewards

    def __getitem__(self, cut: Cut) -> Sample:
        """Arrays are (histories, steps)."""
        history, start, depth, segment = cut
        end = start + (depth + 1) * segment
        steps = np.empty((end - start, 5), dtype=np.int64)
        steps[:, :2] = self.observations[history, start:end]
        steps[0, 2:4] = (N_ACTIONS, 0)
        steps[1:, 2] = self.actions[history, start : end - 1]
        steps[1:, 3] = self.rewards[history, start : end - 1]
        steps[:, 4] = np.arange(start, end) % HORIZON == 0
        actions = torch.from_numpy(self.actions[history, start:end].astype(np.int64))
        return torch.from_numpy(steps), actions, depth, segment


class CutSampler(Sampler[list[Cut]]):
    """Draws batches of cuts; all of a batch share depth and segment length, so that nothing is padded."""

    def __init__(self, size: Size, shape: tuple[int, int], batch_size: int, seed: int) -> None:
        self.size, self.shape, self.batch_size = size, shape, batch_size
        self.rng = np.random.default_rng(seed)

    def __iter__(self) -> Iterator[list[Cut]]:
        """Endless batches."""
        histories, steps = self.shape
        while True:
            depth = int(self.rng.integers(0, self.size.depth + 1))
            low = self.size.window if not self.size.n_latent else self.size.window // 2
            segment = int(self.rng.integers(low, self.size.window + 1))
            starts = self.rng.integers(0, steps - (depth + 1) * segment + 1, self.batch_size)
            rows = self.rng.integers(0, histories, self.batch_size)
            yield [(int(r), int(s), depth, segment) for r, s in zip(rows, starts, strict=True)]


class Trainer:
    """AdamW on the loss of one action per sample; with ``every_step`` of all its actions."""

    def __init__(
        self, size: Size, data: HistoryDataset, batch_size: int, seed: int, every_step: bool = False
    ) -> None:
        torch.manual_seed(seed)
        self.model = ReferenceModel(size).train()
        self.optimiser = torch.optim.AdamW(self.model.parameters(), lr=1e-3, betas=(0.9, 0.98))
        cuts = CutSampler(size, data.actions.shape, batch_size, seed)
        self.batches = iter(DataLoader(data, batch_sampler=cuts))
        self.every_step = every_step

    def update(self) -> int:
        """One optimiser step; returns the number of supervised actions."""
        steps, actions, depths, segments = next(self.batches)
        depth, segment = int(depths[0]), int(segments[0])
        if self.every_step:
            logits = self.model.every_step(steps, depth, segment).flatten(0, 1)
            actions = actions.flatten()
        else:
            logits, actions = self.model(steps, depth, segment), actions[:, -1]
        loss = F.cross_entropy(logits, actions)
        self.optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimiser.step()
        return len(actions)


def roll_out(
    model: ReferenceModel,
    task_ids: list[int],
    n_episodes: int,
    progress: Callable[[int], None],
    drop: int = 1,
) -> npt.NDArray[np.float32]:
    """Roll out with one environment object per roll-out; returns (episodes, roll-outs).

    AD always gets ``window`` steps, padded at the start, so that the first episode costs as much as all
    later ones; with ``drop`` above 1 a full window loses so many at once and grows again.  The model
    with latents compresses a full window and starts an empty one.  ``progress`` is called after every
    episode.
    """
    env = DummyVecEnv([make_env(task) for task in task_ids])
    B, size = len(task_ids), model.size
    returns = np.zeros((n_episodes, B), dtype=np.float32)
    with torch.no_grad():
        latents = model.start(B)
        step = torch.zeros(B, 1, 5, dtype=torch.int64)
        step[:, 0, 2] = N_ACTIONS
        observations = env.reset()
        window = step.repeat(1, size.window if latents is None else 0, 1)
        for episode in range(n_episodes):
            for t in range(HORIZON):
                step[:, 0, :2] = torch.from_numpy(np.asarray(observations))
                step[:, 0, 4] = t == 0
                if window.shape[1] == size.window:
                    if latents is None:
                        window = window[:, drop:]
                    else:
                        latents, window = model.compress(latents, window), window[:, :0]
                window = torch.cat([window, step], dim=1)
                logits = model.last_logits(window, latents)
                actions = torch.multinomial(logits.softmax(-1), 1)[:, 0]
                observations, rewards, _, _ = env.step(actions.numpy())
                returns[episode] += rewards
                step[:, 0, 2] = actions
                step[:, 0, 3] = torch.from_numpy(rewards)
            progress(episode + 1)
    env.close()
    return returns
