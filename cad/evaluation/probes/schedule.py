"""Which cells are probed, after how many compressions, and how long the roll-outs for it are."""

from __future__ import annotations

from cad.envs.registry import task_family
from cad.models.compressed_ad.config import CompressedADConfig
from cad.schema import Config

COUNTS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 48, 96, 192)
"""Numbers of compressions after which latents are probed, as far as roll-outs get."""


def why_no_probe(config: Config) -> str | None:
    """Why a cell has nothing to probe; None if it has."""
    reason = config.spec.why_no_probe(config.model)
    if reason is None and config.evaluation.knock_out is not None:
        return (
            f"evaluation.knock_out={config.evaluation.knock_out}: a probe makes latents again from the steps "
            "of a roll-out, and replaced ones are none of these"
        )
    if reason is None and (shown := config.evaluation.demonstrated_episodes):
        return f"evaluation.demonstrated_episodes={shown}: what is probed are roll-outs of the model's own"
    if reason is None and task_family(config.env).ends_early:
        return "episodes that end early are not probed"
    if reason is None and not probed_counts(config):
        return (
            f"roll-outs of {config.evaluation.n_episodes} episodes never decode a whole window after "
            "a compression"
        )
    return reason


def window_length(config: Config) -> int:
    """Steps that a roll-out gathers before it compresses them."""
    model = config.model
    assert isinstance(model, CompressedADConfig)  # others have no probe
    return model.compress_lengths[1]


def probed_counts(config: Config) -> tuple[int, ...]:
    """Those of :data:`COUNTS` after which an evaluation still decodes a complete window."""
    steps = config.evaluation.n_episodes * config.evaluated_env.steps_per_episode
    windows = steps // window_length(config)
    return tuple(count for count in COUNTS if count < windows)


def fit_episodes(config: Config) -> int:
    """Episodes of a roll-out that contain the last probed window."""
    needed = (probed_counts(config)[-1] + 1) * window_length(config)
    return -(-needed // config.evaluated_env.steps_per_episode)
