"""What the GRU brings; see :class:`~cad.models.spec.ModelSpec`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cad.models.blocks.costs import FLOAT_BYTES
from cad.models.blocks.recurrent.spec import RecurrentSpec
from cad.models.gru.config import GRUConfig

if TYPE_CHECKING:
    from cad.envs.family import Spaces
    from cad.models.network import SequenceModel


class GRUSpec(RecurrentSpec[GRUConfig]):
    """Gated recurrent units instead of attention."""

    config_class = GRUConfig
    state_key = "n_hidden"
    stacks = False  # torch has no vmap of its GRU

    def build(self, config: GRUConfig, spaces: Spaces) -> SequenceModel:
        """See :meth:`ModelSpec.build`."""
        from cad.models.gru.network import GRUModel

        return GRUModel(config, spaces)

    def layer_work(self, config: GRUConfig, steps: int) -> float:
        """Three gates of input and state, and the projection."""
        d, hidden = config.n_embd, config.hidden_width
        return steps * (3 * hidden * (d + hidden) + hidden * d) / 1e6

    def state_bytes(self, config: GRUConfig) -> int:
        """The units of all layers."""
        return config.n_layer * config.hidden_width * FLOAT_BYTES
