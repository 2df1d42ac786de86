"""What CompressedAD brings; see :class:`~cad.models.spec.ModelSpec`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cad.config.training import PretrainConfig, TrainConfig
from cad.models.ad.config import ADConfig
from cad.models.blocks.costs import blocks_work, cache_bytes, encoder_work, vectors_bytes
from cad.models.compressed_ad.config import CompressedADConfig
from cad.models.compressed_ad.curriculum import DepthCurriculum
from cad.models.compressed_ad.transfer import DECODER_TRANSFER, ENCODER_TRANSFER, ENCODER_WEIGHTS
from cad.models.config import ModelConfig, TransformerConfig
from cad.models.spec import HistoryShape, ModelSpec, Pretraining, Sections, without_defaults

if TYPE_CHECKING:
    from torch import nn

    from cad.envs.family import Spaces
    from cad.histories.windows import TrainingWindows
    from cad.models.memory import Memory
    from cad.models.network import SequenceModel
    from cad.models.objective import Objective

# What an encoder and its pre-training are made of; the decoder's settings are not among it.
_ENCODER_SETTINGS = frozenset(
    (
        "n_transit", "n_embd", "n_head", "n_inner", "dropout", "n_latent", "max_compression_depth",
        "encoder_n_layer", "min_compress_length", "max_compress_length", "step_embedding",
        "embedding_norm", "norm", "latent_update",
    )
)  # fmt: skip


class EncoderPretrainingSpec(Pretraining[CompressedADConfig]):
    """Segments are compressed; a small decoder reconstructs them from the latents alone."""

    saved = ENCODER_WEIGHTS

    def build(self, config: CompressedADConfig, settings: PretrainConfig, spaces: Spaces) -> SequenceModel:
        """See :meth:`Pretraining.build`."""
        from cad.models.compressed_ad.reconstruction import EncoderPretraining

        return EncoderPretraining(config, settings, spaces)

    def windows(
        self, config: CompressedADConfig, settings: PretrainConfig, shape: HistoryShape
    ) -> TrainingWindows:
        """Every segment of a window is compressed, so that all are drawn alike."""
        from cad.models.compressed_ad.windows import SegmentWindows

        every = DepthCurriculum(config.max_compression_depth, 0.0, settings.n_updates)
        return SegmentWindows(
            config, curriculum=every, burn_in=0, last=None,
            steps=shape.steps, horizon=shape.horizon, max_gap=settings.max_episode_gap,
        )  # fmt: skip

    def objective(self, config: CompressedADConfig, settings: PretrainConfig, spaces: Spaces) -> Objective:
        """See :meth:`Pretraining.objective`."""
        from cad.models.compressed_ad.objectives import PretrainingObjective

        return PretrainingObjective(config, settings, spaces)

    def identity(self, config: CompressedADConfig) -> dict[str, Any]:
        """See :meth:`Pretraining.identity`."""
        own = CompressedADSpec().identity(config)
        return {key: value for key, value in own.items() if key in _ENCODER_SETTINGS}

    def window_work(self, config: CompressedADConfig, settings: PretrainConfig) -> float:
        """See :meth:`Pretraining.window_work`."""
        return _encoding_work(config) + _reconstruction_work(config, settings)


class CompressedADSpec(ModelSpec[CompressedADConfig]):
    """AD after recursively compressed context."""

    config_class = CompressedADConfig
    other_settings = frozenset(
        (
            "train.depth_weights", "train.burn_in", "train.pretrained_encoder_path",
            "train.reconstruction_weight", "train.init_from_ad", "train.depth_curriculum",
            "train.activation_checkpointing", "pretrain.enabled",
        )
    )  # fmt: skip
    depths_are_compressions = True
    pretraining = EncoderPretrainingSpec()
    encoder_transfer = ENCODER_TRANSFER
    decoder_transfer = DECODER_TRANSFER

    def check(self, config: CompressedADConfig, others: Sections) -> None:
        """Settings that need a compression, and weights by depth."""
        train, pretrain, depth = others.train, others.pretrain, config.max_compression_depth
        for key, used in (
            ("train.burn_in", train.burn_in > 0),
            ("pretrain.enabled", pretrain.enabled),
            ("train.pretrained_encoder_path", train.pretrained_encoder_path is not None),
            ("train.reconstruction_weight", train.reconstruction_weight > 0),
            ("train.depth_curriculum", train.depth_curriculum > 0),
        ):
            if used and not depth:
                raise ValueError(f"{key} is for model.kind=compressed_ad with max_compression_depth above 0")
        shortest, last = config.compress_lengths[0], config.uncompressed_lengths
        before_last = 0 if train.depth_curriculum else depth * shortest
        self.check_burn_in(others, before_last + (last[0] if last else shortest), shortest)
        if train.depth_curriculum and train.reconstruction_weight:
            raise ValueError(
                "train.depth_curriculum and train.reconstruction_weight do not go together: windows of one "
                "segment compress nothing that could be reconstructed"
            )
        if train.depth_curriculum and train.depth_weights is not None and not train.depth_weights[0]:
            raise ValueError("train.depth_curriculum begins with depth 0, whose train.depth_weights is zero")
        if train.depth_weights is not None:
            _check_weights("train", train.depth_weights, 0, depth)
        if pretrain.depth_weights is not None and (pretrain.enabled or train.reconstruction_weight):
            _check_weights("pretrain", pretrain.depth_weights, 1, depth)

    def identity(self, config: CompressedADConfig) -> dict[str, Any]:
        """See :meth:`ModelSpec.identity`."""
        unset = dict.fromkeys(("min_uncompressed_length", "max_uncompressed_length"))
        return without_defaults(super().identity(config), {**unset, "latent_update": "overwrite"})

    def training_window(self, config: CompressedADConfig) -> int:
        """See :meth:`ModelSpec.training_window`."""
        longest, last = config.compress_lengths[1], config.uncompressed_lengths
        return config.max_compression_depth * longest + (last[1] if last else longest)

    def warm_start(self, config: CompressedADConfig) -> ModelConfig:
        """AD with the settings that both have."""
        shared = TransformerConfig.model_fields.keys() - {"kind"}
        return ADConfig(**config.model_dump(include=shared))

    def build(self, config: CompressedADConfig, spaces: Spaces) -> SequenceModel:
        """See :meth:`ModelSpec.build`."""
        from cad.models.compressed_ad.network import CompressedAD

        return CompressedAD(config, spaces)

    def new_memory(self, model: Any, batch: int) -> Memory:
        """See :meth:`ModelSpec.new_memory`."""
        from cad.models.compressed_ad.memory import CompressedMemory

        return CompressedMemory(model, batch)

    def windows(
        self, config: CompressedADConfig, settings: TrainConfig, shape: HistoryShape
    ) -> TrainingWindows:
        """See :meth:`ModelSpec.windows`."""
        from cad.models.compressed_ad.windows import SegmentWindows

        curriculum = DepthCurriculum(config.n_depths, settings.depth_curriculum, settings.n_updates)
        return SegmentWindows(
            config, curriculum=curriculum, burn_in=settings.burn_in, last=config.uncompressed_lengths,
            steps=shape.steps, horizon=shape.horizon, max_gap=settings.max_episode_gap,
        )  # fmt: skip

    def objective(self, config: CompressedADConfig, others: Sections, spaces: Spaces) -> Objective:
        """The actions, with ``train.reconstruction_weight`` also the compressed steps."""
        from cad.models.compressed_ad.objectives import AuxiliaryObjective
        from cad.models.objective import ActionObjective

        if others.train.reconstruction_weight:
            return AuxiliaryObjective(config, others.train, others.pretrain, spaces)
        return ActionObjective(others.train, config.n_depths, spaces.n_actions)

    def learner(self, model: Any, others: Sections) -> nn.Module:
        """See :meth:`ModelSpec.learner`."""
        from cad.models.compressed_ad.reconstruction import WithReconstruction

        model.activation_checkpointing = others.train.activation_checkpointing
        if others.train.reconstruction_weight:
            return WithReconstruction(model, others.pretrain)
        return super().learner(model, others)

    def freeze_encoder(self, model: Any) -> None:
        """See :meth:`ModelSpec.freeze_encoder`."""
        for name, parameter in model.named_parameters():
            if name.startswith(ENCODER_WEIGHTS):
                parameter.requires_grad_(False)

    def window_work(self, config: CompressedADConfig, others: Sections) -> float:
        """See :meth:`ModelSpec.window_work`."""
        tokens = _mean_segment(config) + config.n_latent
        work = blocks_work(config, config.n_layer, config.n_depths * tokens, tokens) + _encoding_work(config)
        if others.train.reconstruction_weight:
            work += _reconstruction_work(config, others.pretrain)
        return work

    def burn_in_work(self, config: CompressedADConfig, others: Sections) -> float:
        """See :meth:`ModelSpec.burn_in_work`."""
        segment = _mean_segment(config)
        room = others.source.steps_per_stream // segment - config.n_depths
        return max(0.0, min(others.train.burn_in, room)) / 2 * _compression_work(config, segment)

    def rollout_work(self, config: CompressedADConfig) -> float:
        """A token through the cache, and its share of a compression."""
        longest = config.compress_lengths[1]
        step = blocks_work(config, config.n_layer, 1, config.n_transit + config.n_latent)
        encoded = _compression_work(config, longest) / longest
        return step + (encoded if config.max_compression_depth else 0.0)

    def state_bytes(self, config: CompressedADConfig) -> int:
        """The cache, the latents, and the embedded steps since they were made."""
        positions = config.n_latent + config.n_transit
        vectors = config.n_latent + config.compress_lengths[1]
        return cache_bytes(config, positions) + vectors_bytes(config, vectors)

    def compresses(self, config: CompressedADConfig) -> bool:
        """See :meth:`ModelSpec.compresses`."""
        return config.max_compression_depth > 0

    def steps_uncompressed(self, config: CompressedADConfig) -> int:
        """A full window is compressed before the next step is added."""
        return config.compress_lengths[1]

    def explain_compressions(self, config: CompressedADConfig, total: int, chosen: int) -> str:
        """See :meth:`ModelSpec.explain_compressions`."""
        if not config.max_compression_depth:
            return ": at max_compression_depth=0 a full window is forgotten"
        return f", {chosen} by </compress>, {total - chosen} because a window was full"

    def why_no_probe(self, config: CompressedADConfig) -> str | None:
        """See :meth:`ModelSpec.why_no_probe`."""
        return None if config.max_compression_depth else "no latents"


def _check_weights(section: str, weights: tuple[float, ...], first: int, depth: int) -> None:
    needed = depth + 1 - first
    if len(weights) != needed:
        raise ValueError(
            f"{section}.depth_weights has {len(weights)} entries; depths {first} to "
            f"max_compression_depth={depth} need {needed}"
        )
    if sum(weights) <= 0:
        raise ValueError(f"{section}.depth_weights are all zero")


def _mean_segment(config: CompressedADConfig) -> float:
    return sum(config.compress_lengths) / 2


def _encoding_work(config: CompressedADConfig) -> float:
    return config.max_compression_depth * _compression_work(config, _mean_segment(config))


def _compression_work(config: CompressedADConfig, steps: float) -> float:
    return encoder_work(config, steps, gated=config.latent_update == "gated")


def _reconstruction_work(config: CompressedADConfig, settings: PretrainConfig) -> float:
    """Of the decoder that reconstructs k segments from the latents after them, k = 1 .. depth."""
    segment = _mean_segment(config)
    tokens = [k * segment + config.n_latent for k in range(1, config.max_compression_depth + 1)]
    return sum(blocks_work(config, settings.decoder_n_layer, n, n) for n in tokens)
