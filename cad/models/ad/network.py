"""AD: a causal transformer over the last ``n_transit`` steps (arXiv:2210.14215, section 3)."""

from __future__ import annotations

from torch import Tensor

from cad.envs.family import Spaces
from cad.histories.batch import Batch
from cad.models.ad.config import ADConfig
from cad.models.blocks.decoder import Decoder
from cad.models.blocks.step_embedding import StepEmbedding
from cad.models.blocks.transformer import initialise
from cad.models.network import SequenceModel


class AD(SequenceModel):
    """Algorithm distillation."""

    config: ADConfig

    def __init__(self, config: ADConfig, spaces: Spaces) -> None:
        super().__init__(config, spaces)
        self.embed = StepEmbedding(
            spaces, config.n_embd, config.step_embedding == "cell", config.embedding_norm
        )
        self.decoder = Decoder(config, spaces.n_actions)
        initialise(self, config.n_layer)

    def forward(self, batch: Batch) -> Tensor:
        """Action logits (B, 1, T, actions): one segment, every position predicts its action."""
        logits: Tensor = self.decoder(self.embed(batch.steps))
        return logits[:, None]
