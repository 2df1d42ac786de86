"""The training loop: one for every model and every engine.

Every update is a function of the weights, the optimiser's moments, the seed, the update's number
and, with dropout, the number of ranks; a run that was stopped anywhere and resumed with as many
ranks equals one that was not, bit for bit.
"""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from cad.config.schema import Config, TrainConfig
from cad.errors import CadError
from cad.histories.sampler import WindowSampler
from cad.interrupt import StopFlag
from cad.training.checkpoint import Checkpoint, load_checkpoint, load_newest, save_checkpoint
from cad.training.engines import require_ranks, start_engine
from cad.training.metrics import MetricsLog
from cad.training.objective import ActionObjective, Objective, rates_in_words
from cad.training.optimiser import rate_factor
from cad.training.ranks import SINGLE_PROCESS, Ranks

log = logging.getLogger(__name__)

Model = TypeVar("Model", bound=nn.Module)

Progress = Callable[[int, dict[str, float]], None]
"""Called with the number of finished updates and the latest metrics, on the first rank."""


@dataclass(frozen=True)
class TrainingSummary:
    """What a finished training reports; ``seconds`` includes those before any interruption."""

    updates: int
    seconds: float
    supervised_actions: int


class MetricSums:
    """Sums since the last metrics line, kept on the device so that no update waits for them."""

    def __init__(self, n_columns: int, device: torch.device) -> None:
        # Number of updates, gradient norm; then the objective's columns.
        self.tensor = torch.zeros(2 + n_columns, device=device, dtype=torch.float64)

    def add(self, gradient_norm: Tensor, columns: Tensor) -> None:
        """Add one update."""
        head = torch.stack([torch.ones_like(gradient_norm), gradient_norm])
        self.tensor += torch.cat([head, columns]).double()

    def take(self, ranks: Ranks) -> tuple[float, list[float]]:
        """Means of gradient norm and columns since the last call, over all ranks; waits for them."""
        count, norm, *columns = ranks.mean(self.tensor).tolist()
        self.tensor.zero_()
        return norm / count, [column / count for column in columns]

    def load(self, stored: Tensor, ranks: Ranks) -> None:
        """Put back the sums (ranks, n) of a checkpoint; other numbers of ranks go on from their mean."""
        stored = stored.view(-1, len(self.tensor))
        self.tensor.copy_(stored[ranks.rank] if len(stored) == ranks.size else stored.mean(dim=0))


def train(
    config: Config,
    model: Model,
    sampler: WindowSampler,
    folder: Path,
    *,
    run_id: str,
    device: torch.device,
    stop: StopFlag,
    objective: Objective | None = None,
    validate: Callable[[Model], float] | None = None,
    progress: Progress | None = None,
    ranks: Ranks = SINGLE_PROCESS,
) -> TrainingSummary:
    """Train ``model`` in place, resuming from ``folder`` where an earlier run left checkpoints.

    ``objective`` is that of the model's output, by default the actions.  ``validate`` is the mean
    return, as a share of the optimum, on the validation tasks.  All ``ranks`` call this alike, with
    the same weights, and all end with the trained ones.
    The first rank writes ``folder/checkpoints``, ``folder/metrics.jsonl`` and ``folder/tensorboard``.
    Raises :class:`CadError` when the watchdog sees a loss that is not finite or that does not fall,
    and :class:`~cad.interrupt.InterruptedRun`, after saving, when ``stop`` is set on any rank.
    """
    settings = config.train
    if objective is None:
        objective = ActionObjective(config)
    require_ranks(settings, objective.section, ranks.size)
    checkpoints = folder / "checkpoints"
    found = _find(checkpoints, run_id, ranks)
    if found is not None:
        model.load_state_dict(_section(found, "model"))
    engine = start_engine(settings, model, ranks, device)
    model.train()
    sums = MetricSums(objective.n_columns, device)
    done, earlier, supervised, tokens = 0, 0.0, 0, 0
    best: tuple[int, float] | None = None
    if found is not None:
        done, earlier, supervised, best = found.step, found.seconds, found.supervised_actions, found.best
        engine.load_optimiser_state(_section(found, "optimiser"))
        sums.load(found.tensors["metric_sums"], ranks)
        log.info("resuming at update %d of %d", done, settings.n_updates)
        before = found.origin.get("ranks", ranks.size)
        if before != ranks.size:
            log.info("with %d ranks instead of %d: equal but for rounding and dropout", ranks.size, before)
        del found
    started = time.perf_counter()
    parts = settings.gradient_accumulation
    origin = {"config": config.model_dump(mode="json"), "engine": settings.engine, "ranks": ranks.size}

    def save(step: int) -> None:
        engine.collect()
        optimiser, stacked = engine.optimiser_state(), ranks.all_gather(sums.tensor)
        if not ranks.first:
            return
        tensors = {
            **{f"model/{k}": v for k, v in model.state_dict().items()},
            **{f"optimiser/{k}": v for k, v in optimiser.items()},
            "metric_sums": stacked,
        }
        seconds = earlier + time.perf_counter() - started
        checkpoint = Checkpoint(step, seconds, supervised, tensors, origin, best)
        save_checkpoint(checkpoints, checkpoint, run_id, settings.keep_checkpoints)

    with MetricsLog(folder, done) if ranks.first else contextlib.nullcontext() as metrics:
        if done == 0 and metrics:
            metrics.write(0, objective.constants())
        vote = ranks.vote(stop)
        tick, counted = time.perf_counter(), supervised
        for update in range(done, settings.n_updates):
            # Dropout masks follow from the seed, the update and the rank, as samples do.
            torch.manual_seed(_mask_seed(config.seed, update, ranks))
            batches = [
                sampler.batch(update, ranks.rank * parts + part, ranks.size * parts).to(device)
                for part in range(parts)
            ]
            result = engine.update(batches, objective, rate_factor(settings, update))
            sums.add(result.gradient_norm, result.columns)
            supervised += result.supervised * ranks.size
            tokens += sum(batch.actions.numel() for batch in batches) * ranks.size

            step = update + 1
            last = step == settings.n_updates
            if step % settings.log_every == 0 or last:
                gradient_norm, means = sums.take(ranks)
                values = {**objective.values(means), "gradient_norm": gradient_norm}
                values["learning_rate"] = settings.learning_rate * rate_factor(settings, update)
                elapsed = time.perf_counter() - tick
                values["supervised_actions_per_second"] = (supervised - counted) / elapsed
                values["tokens_per_second"] = tokens / elapsed
                _require_finite(values, step, settings, objective.section)
                if validate and settings.validate_every and (step % settings.validate_every == 0 or last):
                    engine.collect()
                    model.eval()
                    values["validation_return"] = validated = validate(model)
                    model.train()
                    if best is None or validated > best[1]:
                        best = step, validated
                if metrics:
                    metrics.write(step, values)
                objective.watch(values, step)  # what stops a run is on record
                if progress and ranks.first:
                    progress(step, values)
                tick, counted, tokens = time.perf_counter(), supervised, 0
            stopping = vote()
            if step % settings.checkpoint_every == 0 or last or stopping or (best and best[0] == step):
                save(step)
            if stopping and not last:
                ranks.barrier()  # until what the first rank saves is on the disk
                stop.raise_if_set(f"training (update {step} of {settings.n_updates})")
        vote.close()
    engine.collect()
    seconds = earlier + time.perf_counter() - started
    return TrainingSummary(settings.n_updates, seconds, supervised)


def _find(checkpoints: Path, run_id: str, ranks: Ranks) -> Checkpoint | None:
    """The newest sound checkpoint: the first rank chooses, the others read what it chose."""
    found = load_newest(checkpoints, run_id) if ranks.first else None
    step = ranks.broadcast(found.step if found else None)
    if step is None or ranks.first:
        return found
    return load_checkpoint(checkpoints, step, run_id)


def _section(found: Checkpoint, name: str) -> dict[str, Tensor]:
    return {k.removeprefix(f"{name}/"): v for k, v in found.tensors.items() if k.startswith(f"{name}/")}


def _mask_seed(seed: int, update: int, ranks: Ranks) -> int:
    """A seed for each update and rank: far apart for the ranks, so that none meets another's."""
    return seed * 1_000_003 + update + (ranks.rank << 44)


def _require_finite(values: dict[str, float], step: int, settings: TrainConfig, section: str) -> None:
    loss, norm = values["loss"], values["gradient_norm"]
    if not (math.isfinite(loss) and math.isfinite(norm)):
        raise CadError(
            f"training diverged: loss {loss}, gradient norm {norm} at update {step}; lower "
            f"{rates_in_words(settings, section)} or {section}.grad_clip "
            f"(now {settings.grad_clip:g}), or raise {section}.num_warmup_steps"
        )
