"""What linear attention brings; see :class:`~cad.models.spec.ModelSpec`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cad.models.blocks.costs import FLOAT_BYTES
from cad.models.blocks.recurrent.spec import RecurrentSpec
from cad.models.linear_attention.config import CHUNK, LinearAttentionConfig

if TYPE_CHECKING:
    from cad.envs.family import Spaces
    from cad.models.network import SequenceModel


class LinearAttentionSpec(RecurrentSpec[LinearAttentionConfig]):
    """Linear attention with a gated delta rule."""

    config_class = LinearAttentionConfig
    state_key = "head_width"

    def build(self, config: LinearAttentionConfig, spaces: Spaces) -> SequenceModel:
        """See :meth:`ModelSpec.build`."""
        from cad.models.linear_attention.network import LinearAttentionModel

        return LinearAttentionModel(config, spaces)

    def layer_work(self, config: LinearAttentionConfig, steps: int) -> float:
        """Projections, and the rule: what a chunk's steps do to each other and to the state."""
        d, width = config.n_embd, config.key_width
        projections = d * (5 * config.n_head * width + 2 * config.n_head)
        state = 3 * width * width
        chunk = 4.5 * CHUNK * width if steps > 1 else 0.0
        return steps * (projections + config.n_head * (state + chunk)) / 1e6

    def state_bytes(self, config: LinearAttentionConfig) -> int:
        """The matrices of all heads of all layers."""
        return config.n_layer * config.n_head * config.key_width**2 * FLOAT_BYTES
