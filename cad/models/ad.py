"""AD: a causal transformer over the last ``n_transit`` steps (arXiv:2210.14215, section 3)."""

from __future__ import annotations

from torch import Tensor, nn

from cad.config.schema import ModelConfig
from cad.histories.batch import Batch
from cad.models.decoder import Decoder
from cad.models.tokens import StepEmbedding
from cad.models.transformer import initialise


class AD(nn.Module):
    """Algorithm distillation."""

    def __init__(self, config: ModelConfig, grid_size: int) -> None:
        super().__init__()
        self.config = config
        self.embed = StepEmbedding(
            grid_size, config.n_embd, config.step_embedding == "cell", config.embedding_norm
        )
        self.decoder = Decoder(config, n_latent=0)
        initialise(self, config.n_layer)

    def forward(self, batch: Batch) -> Tensor:
        """Action logits (B, 1, T, actions): one segment, every position predicts its action."""
        logits: Tensor = self.decoder(self.embed(batch.steps))
        return logits[:, None]
