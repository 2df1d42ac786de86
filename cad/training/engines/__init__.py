"""Engines: how an update is computed.  The training loop is the same for all of them."""

from __future__ import annotations

import torch
from torch import nn

from cad.config import LoopConfig
from cad.errors import CadError, UsageError
from cad.surroundings import leave_out
from cad.training.engines.plain import PlainEngine
from cad.training.engines.protocol import Engine, Update
from cad.training.ranks import Ranks

__all__ = ["Engine", "Update", "require_ranks", "start_engine"]


def require_ranks(settings: LoopConfig, section: str, ranks: int) -> None:
    """Refuse a number of ranks that the settings do not allow.

    ``section`` is the settings' section of the config, for messages.  Raises :class:`UsageError`.
    """
    if settings.engine == "plain":
        if ranks > 1:
            raise UsageError(
                f"{section}.engine=plain is one process, not {ranks} ranks; "
                f"set {section}.engine to accelerate or deepspeed"
            )
        return
    parts = ranks * settings.gradient_accumulation
    if settings.batch_size % parts:
        raise UsageError(
            f"{section}.batch_size={settings.batch_size} cannot be divided evenly: {ranks} ranks x "
            f"{section}.gradient_accumulation={settings.gradient_accumulation} make {parts} parts; "
            f"choose a multiple of {parts}"
        )
    if section == "pretrain" and settings.batch_size == parts:
        raise UsageError(
            f"pretrain.batch_size={settings.batch_size} leaves one window for each of {parts} parts (ranks x "
            "pretrain.gradient_accumulation): the collapse check compares the windows of a part"
        )


def start_engine(
    settings: LoopConfig,
    model: nn.Module,
    ranks: Ranks,
    device: torch.device,
    *,
    unused_parameters: bool = False,
) -> Engine:
    """Start ``settings.engine`` around ``model``, whose weights are equal on all ranks.

    ``unused_parameters`` says that some parameters get no gradient in some updates: data parallel
    ranks would otherwise wait for it.
    """
    # Again, for programs that call this without the command line.
    leave_out(places=ranks.size == 1)
    if settings.engine == "plain":
        return PlainEngine(settings, model, device)
    # Late imports: an engine's package needs to be installed only if that engine is used.
    try:
        if settings.engine == "accelerate":
            from cad.training.engines.accelerate import AccelerateEngine

            return AccelerateEngine(settings, model, ranks, device, unused_parameters)
        from cad.training.engines.deepspeed import DeepSpeedEngine
    except ModuleNotFoundError as error:
        raise CadError(
            f"the engine {settings.engine} needs the package {error.name}, which is not installed: "
            "pip install 'cad[engines]'"
        ) from error
    return DeepSpeedEngine(settings, model, ranks, device)
