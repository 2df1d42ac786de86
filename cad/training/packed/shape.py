"""Which trainings can go into one pack: those that do the same arithmetic, whatever their numbers are."""

from __future__ import annotations

import json

from cad.envs.registry import task_family
from cad.schema import Config


def pack_key(config: Config) -> str | None:
    """Equal for action trainings that can be packed together; None for one that has to train alone.

    Seeds, learning rates and schedules, loss weights, dropout rates, burn-ins, splits of the tasks and all
    about logging, validation and checkpoints may differ; a depth curriculum, which has metrics of its own,
    all or none of them have.
    """
    train, pretrain = config.train, config.pretrain
    if train.engine != "plain" or train.compile or train.activation_checkpointing:
        return None
    model = config.model.model_dump(mode="json")
    del model["dropout"]
    reconstruction = (pretrain.objective, pretrain.decoder_n_layer) if train.reconstruction_weight else None
    loop = (train.batch_size, train.gradient_accumulation, train.precision, train.optimizer)
    frozen, grows = config.freezes_encoder, train.depth_curriculum > 0
    return json.dumps([model, repr(task_family(config.env).spaces), loop, reconstruction, frozen, grows])
