"""What RegionAD brings; see :class:`~cad.models.spec.ModelSpec`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cad.config.source import PPOConfig
from cad.config.training import TrainConfig
from cad.models.blocks.costs import blocks_work, cache_bytes, encoder_work, vectors_bytes
from cad.models.region_ad.config import RegionADConfig
from cad.models.spec import HistoryShape, ModelSpec, Sections

if TYPE_CHECKING:
    from cad.envs.family import Spaces
    from cad.histories.windows import TrainingWindows
    from cad.models.memory import Memory
    from cad.models.network import SequenceModel
    from cad.models.objective import Objective

_LATENT_SETTINGS = ("n_latent", "max_compression_depth", "encoder_n_layer")
_INDEX_BYTES = 8


class RegionADSpec(ModelSpec[RegionADConfig]):
    """AD over regions that it closes itself."""

    config_class = RegionADConfig
    other_settings = frozenset(("train.token_type_weight",))

    def check(self, config: RegionADConfig, others: Sections) -> None:
        """A region is a PPO iteration."""
        if not isinstance(others.source, PPOConfig):
            raise ValueError("model.kind=region_ad needs source.kind=ppo: a region is one PPO iteration")
        if config.compress_interval != others.source.n_steps:
            raise ValueError(
                f"model.compress_interval={config.compress_interval} is not "
                f"source.n_steps={others.source.n_steps}: a region must be one PPO iteration; set both alike"
            )

    def identity(self, config: RegionADConfig) -> dict[str, Any]:
        """See :meth:`ModelSpec.identity`."""
        unused = () if config.compresses_regions else _LATENT_SETTINGS
        return {key: value for key, value in super().identity(config).items() if key not in unused}

    def training_window(self, config: RegionADConfig) -> int:
        """See :meth:`ModelSpec.training_window`."""
        return config.training_regions * config.compress_interval

    def build(self, config: RegionADConfig, spaces: Spaces) -> SequenceModel:
        """See :meth:`ModelSpec.build`."""
        from cad.models.region_ad.network import RegionAD

        return RegionAD(config, spaces)

    def new_memory(self, model: Any, batch: int) -> Memory:
        """See :meth:`ModelSpec.new_memory`."""
        from cad.models.region_ad.memory import RegionMemory

        return RegionMemory(model, batch)

    def windows(self, config: RegionADConfig, settings: TrainConfig, shape: HistoryShape) -> TrainingWindows:
        """See :meth:`ModelSpec.windows`."""
        from cad.models.region_ad.windows import RegionWindows

        return RegionWindows(config, shape.steps, shape.horizon, settings.max_episode_gap)

    def objective(self, config: RegionADConfig, others: Sections, spaces: Spaces) -> Objective:
        """See :meth:`ModelSpec.objective`."""
        from cad.models.region_ad.objective import RegionObjective

        return RegionObjective(config, others.train, spaces.n_actions)

    def window_work(self, config: RegionADConfig, others: Sections) -> float:
        """See :meth:`ModelSpec.window_work`."""
        region = config.compress_interval + 2
        seen = config.n_regions * region + (config.latents or 0)
        encoded = config.max_compression_depth * encoder_work(config, region)
        decoded = blocks_work(config, config.n_layer, config.training_regions * region, seen)
        return decoded + (encoded if config.compresses_regions else 0.0)

    def rollout_work(self, config: RegionADConfig) -> float:
        """A token through the cache, and its share of what happens when a region is closed."""
        room = config.region_room
        step = blocks_work(config, config.n_layer, 1, config.n_transit + (config.latents or 0))
        encoded = encoder_work(config, room) if config.compresses_regions else 0.0
        kept = (config.n_regions - 1) * room
        return step + (encoded + blocks_work(config, config.n_layer, kept, kept)) / room

    def state_bytes(self, config: RegionADConfig) -> int:
        """The cache, the latents, and the elements in view: embedded steps, types and places."""
        latents = config.latents or 0
        elements = vectors_bytes(config, config.n_transit + latents) + 2 * _INDEX_BYTES * config.n_transit
        return cache_bytes(config, latents + config.n_transit) + elements

    def compresses(self, config: RegionADConfig) -> bool:
        """See :meth:`ModelSpec.compresses`."""
        return config.compresses_regions

    def chosen_regions(self, config: RegionADConfig) -> tuple[int, int]:
        """See :meth:`ModelSpec.chosen_regions`."""
        return config.compress_interval, config.region_room

    def explain_compressions(self, config: RegionADConfig, total: int, chosen: int) -> str:
        """See :meth:`ModelSpec.explain_compressions`."""
        return f", {chosen} by </compress>, {total - chosen} because a window was full"

    def why_no_probe(self, config: RegionADConfig) -> str | None:
        """See :meth:`ModelSpec.why_no_probe`."""
        return f"not for {config.kind}: its roll-outs compress at different steps"
