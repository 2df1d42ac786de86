"""A recurrent sequence model: AD's step embedding, then blocks whose attention is a recurrent layer.

Without positions: order is in the recurrence itself.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cad.envs.family import Spaces
from cad.histories.batch import Batch
from cad.models.blocks.recurrent.config import RecurrentConfig
from cad.models.blocks.step_embedding import StepEmbedding
from cad.models.blocks.transformer import initialise, input_norm
from cad.models.network import SequenceModel


class RecurrentLayer(nn.Module, ABC):
    """Mixes the steps of a sequence through a state of constant size."""

    @abstractmethod
    def new_state(self, batch: int) -> Tensor:
        """The state (B, ...) before the first step: zeros."""

    @abstractmethod
    def forward(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T, n_embd) and the state before it, to (B, T, n_embd) and the state after it.

        A sequence may be given in parts of any length: outputs differ in rounding only.
        """

    @abstractmethod
    def initialise(self) -> None:
        """Draw the weights for which a transformer's initialisation does not do."""


class RecurrentBlock(nn.Module):
    """A recurrent layer, then a feed-forward layer, as in :class:`~cad.models.blocks.transformer.Block`."""

    def __init__(self, config: RecurrentConfig, layer: RecurrentLayer) -> None:
        super().__init__()
        self._post = config.norm == "post"
        self.recurrent_norm = nn.LayerNorm(config.n_embd)
        self.recurrent = layer
        self.feed_forward_norm = nn.LayerNorm(config.n_embd)
        self.expand = nn.Linear(config.n_embd, config.inner_width)
        self.contract = nn.Linear(config.inner_width, config.n_embd)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """See :meth:`RecurrentLayer.forward`."""
        mixed, state = self.recurrent(x if self._post else self.recurrent_norm(x), state)
        x = x + self.dropout(mixed)
        if self._post:
            x = self.recurrent_norm(x)
            normed: Tensor = self.feed_forward_norm(x + self._feed_forward(x))
            return normed, state
        return x + self._feed_forward(self.feed_forward_norm(x)), state

    def _feed_forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.dropout(self.contract(F.gelu(self.expand(x))))
        return out


class RecurrentDecoder(nn.Module):
    """Embedded steps to action logits, and the states of all layers."""

    def __init__(self, config: RecurrentConfig, layers: Sequence[RecurrentLayer], n_actions: int) -> None:
        super().__init__()
        self.input_norm = input_norm(config)
        self.blocks = nn.ModuleList(RecurrentBlock(config, layer) for layer in layers)
        self.output_norm = nn.LayerNorm(config.n_embd)
        self.head = nn.Linear(config.n_embd, n_actions)

    def new_states(self, batch: int) -> list[Tensor]:
        """The state (B, ...) of each layer before the first step."""
        return [layer.new_state(batch) for layer in self.modules() if isinstance(layer, RecurrentLayer)]

    def forward(self, steps: Tensor, states: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Logits (B, T, actions) of embedded steps (B, T, n_embd), and the states after them."""
        x, after = self.input_norm(steps), []
        for block, before in zip(self.blocks, states, strict=True):
            x, state = block(x, before)
            after.append(state)
        return self.head(self.output_norm(x)), after


class RecurrentModel(SequenceModel):
    """A window is one sequence from a state of zeros; every position after a burn-in predicts its action."""

    config: RecurrentConfig

    def __init__(self, config: RecurrentConfig, spaces: Spaces, layers: Sequence[RecurrentLayer]) -> None:
        """``layers``: one recurrent layer for each of the config's ``n_layer``."""
        super().__init__(config, spaces)
        self.embed = StepEmbedding(
            spaces, config.n_embd, config.step_embedding == "cell", config.embedding_norm
        )
        self.decoder = RecurrentDecoder(config, layers, spaces.n_actions)
        initialise(self, config.n_layer)
        for layer in layers:
            layer.initialise()

    def forward(self, batch: Batch) -> Tensor:
        """Action logits (B, 1, T, actions) of the T steps after the burn-in."""
        steps = self.embed(batch.steps)
        *before, last = steps.split(batch.segment_length, dim=1)
        states = self.decoder.new_states(steps.shape[0])
        with torch.no_grad():
            for k, segment in enumerate(before):
                after = self.decoder(segment, states)[1]
                if batch.absent is not None:
                    there = batch.absent <= k
                    after = [torch.where(there, x, zeros) for x, zeros in zip(after, states, strict=True)]
                states = after
        logits: Tensor = self.decoder(last, states)[0]
        return logits[:, None]
