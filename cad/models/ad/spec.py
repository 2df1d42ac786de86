"""What AD brings; see :class:`~cad.models.spec.ModelSpec`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cad.config.training import TrainConfig
from cad.models.ad.config import ADConfig
from cad.models.blocks.costs import blocks_work, cache_bytes, vectors_bytes
from cad.models.spec import HistoryShape, ModelSpec, Sections, without_defaults

if TYPE_CHECKING:
    from cad.envs.family import Spaces
    from cad.histories.windows import TrainingWindows
    from cad.models.memory import Memory
    from cad.models.network import SequenceModel
    from cad.models.objective import Objective


class ADSpec(ModelSpec[ADConfig]):
    """Algorithm distillation (arXiv:2210.14215)."""

    config_class = ADConfig
    state_key = "n_transit"
    is_reference = True

    def identity(self, config: ADConfig) -> dict[str, Any]:
        """See :meth:`ModelSpec.identity`."""
        return without_defaults(super().identity(config), {"n_sink": 0})

    def training_window(self, config: ADConfig) -> int:
        """See :meth:`ModelSpec.training_window`."""
        return config.n_transit

    def build(self, config: ADConfig, spaces: Spaces) -> SequenceModel:
        """See :meth:`ModelSpec.build`."""
        from cad.models.ad.network import AD

        return AD(config, spaces)

    def new_memory(self, model: Any, batch: int) -> Memory:
        """See :meth:`ModelSpec.new_memory`."""
        from cad.models.ad.memory import WindowMemory

        return WindowMemory(model, batch)

    def windows(self, config: ADConfig, settings: TrainConfig, shape: HistoryShape) -> TrainingWindows:
        """See :meth:`ModelSpec.windows`."""
        from cad.models.ad.windows import ADWindows

        return ADWindows(config, shape.steps, shape.horizon, settings.max_episode_gap)

    def objective(self, config: ADConfig, others: Sections, spaces: Spaces) -> Objective:
        """See :meth:`ModelSpec.objective`."""
        from cad.models.objective import ActionObjective

        return ActionObjective(others.train, config.n_depths, spaces.n_actions)

    def window_work(self, config: ADConfig, others: Sections) -> float:
        """See :meth:`ModelSpec.window_work`."""
        return blocks_work(config, config.n_layer, config.n_transit, config.n_transit)

    def rollout_work(self, config: ADConfig) -> float:
        """A token through the cache, and its share of encoding the window again."""
        kept = config.n_transit - config.steps_dropped
        again = blocks_work(config, config.n_layer, kept, kept) / config.steps_dropped
        return blocks_work(config, config.n_layer, 1, config.n_transit) + again

    def state_bytes(self, config: ADConfig) -> int:
        """The cache, and the embedded steps of the window."""
        return cache_bytes(config, config.n_transit) + vectors_bytes(config, config.n_transit)

    def compresses(self, config: ADConfig) -> bool:
        """See :meth:`ModelSpec.compresses`."""
        return False

    def explain_compressions(self, config: ADConfig, total: int, chosen: int) -> str:
        """See :meth:`ModelSpec.explain_compressions`."""
        dropped = f"it drops the oldest {config.steps_dropped} steps of a full window"
        if config.n_sink:
            dropped += f", but for the first {config.n_sink} of all"
        return f": {config.kind} does not compress, {dropped}"

    def why_no_probe(self, config: ADConfig) -> str | None:
        """See :meth:`ModelSpec.why_no_probe`."""
        return "no latents"
