"""The training loop: one for every model and every engine.

Every update is a function of the weights, the optimiser's moments, the seed, the update's number
and, with dropout, the number of ranks.  A run that is stopped anywhere and resumed with the same
number of ranks is bit-identical to one that never stopped.
"""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from cad.config import LoopConfig
from cad.errors import CadError
from cad.histories.sampler import WindowSampler
from cad.interrupt import StopFlag
from cad.models.objective import Objective, rates_in_words
from cad.training.checkpoint import Checkpoint, load_checkpoint, load_newest, save_checkpoint
from cad.training.engines import require_ranks, start_engine
from cad.training.metrics import MetricsLog
from cad.training.optimiser import rate_factor
from cad.training.ranks import SINGLE_PROCESS, Ranks

log = logging.getLogger(__name__)

Progress = Callable[[int, dict[str, float]], None]
"""Called with the number of finished updates and the latest metrics, on the first rank."""


@dataclass(frozen=True)
class Validation:
    """``measure`` scores the model, in eval mode, every ``every`` updates and after the last one.

    It runs where a metrics line is written too; with ``every=0``, never.  Higher is better: the checkpoint of
    the best score is kept.
    """

    measure: Callable[[nn.Module], float]
    every: int
    give_up: Callable[[int, float], str | None] = lambda _step, _best: None
    """From the number of updates and the best score so far: why the training is to end, if it is."""

    def is_due(self, step: int, last: bool) -> bool:
        """Whether to measure after ``step`` updates."""
        return self.every > 0 and (step % self.every == 0 or last)


class PrunedError(CadError):
    """The training was ended early; what it saved stays, so that it can go on."""


@dataclass(frozen=True)
class TrainingSummary:
    """What a finished training reports; ``seconds`` includes the time before interruptions."""

    updates: int
    seconds: float
    supervised_actions: int


class MetricSums:
    """Sums since the last metrics line; they stay on the device so that no update waits for a copy."""

    def __init__(self, n_columns: int, device: torch.device) -> None:
        # Number of updates, gradient norm; then the objective's columns.
        self.tensor = torch.zeros(2 + n_columns, device=device, dtype=torch.float64)

    def add(self, gradient_norm: Tensor, columns: Tensor) -> None:
        """Add one update."""
        head = torch.stack([torch.ones_like(gradient_norm), gradient_norm])
        self.tensor += torch.cat([head, columns]).double()

    def take(self, ranks: Ranks) -> tuple[float, list[float]]:
        """Means of gradient norm and columns over all ranks and updates since the last call; resets them."""
        count, norm, *columns = ranks.mean(self.tensor).tolist()
        self.tensor.zero_()
        return norm / count, [column / count for column in columns]

    def load(self, stored: Tensor, ranks: Ranks) -> None:
        """Restore the sums (ranks, n) of a checkpoint; with another number of ranks, each takes the mean."""
        stored = stored.view(-1, len(self.tensor))
        self.tensor.copy_(stored[ranks.rank] if len(stored) == ranks.size else stored.mean(dim=0))


def train(
    settings: LoopConfig,
    model: nn.Module,
    sampler: WindowSampler,
    folder: Path,
    *,
    objective: Objective,
    seed: int,
    run_id: str,
    device: torch.device,
    stop: StopFlag,
    validation: Validation | None = None,
    unused_parameters: bool = False,
    progress: Progress | None = None,
    ranks: Ranks = SINGLE_PROCESS,
    origin: Mapping[str, object] = {},
) -> TrainingSummary:
    """Train ``model`` in place, resuming from ``folder`` where an earlier run left checkpoints.

    ``objective`` turns the model's output into a loss; ``seed`` determines the dropout masks.
    ``unused_parameters`` says that some parameters get no gradient in some updates.  ``run_id`` names
    the run: checkpoints of another one are refused.  ``origin`` (plain data) is stored in checkpoints.
    All ``ranks`` call this with the same arguments and weights, and all end with the trained weights.
    The first rank writes ``folder/checkpoints``, ``folder/metrics.jsonl`` and the trackers' files.

    Raises :class:`CadError` when the loss is not finite or the objective's watchdog objects, and
    :class:`~cad.interrupt.InterruptedRun`, after saving, when ``stop`` is set on any rank;
    :class:`PrunedError`, after saving, when ``validation`` gives up.
    """
    require_ranks(settings, objective.section, ranks.size)
    checkpoints = folder / "checkpoints"
    resumed = _newest_checkpoint(checkpoints, run_id, ranks)
    if resumed is not None:
        model.load_state_dict(_section(resumed, "model"))
    engine = start_engine(settings, model, ranks, device, unused_parameters=unused_parameters)
    model.train()
    sums = MetricSums(objective.n_columns, device)
    done, earlier, supervised, tokens = 0, 0.0, 0, 0
    best: tuple[int, float] | None = None
    if resumed is not None:
        done, earlier, supervised, best = (
            resumed.step, resumed.seconds, resumed.supervised_actions, resumed.best,
        )  # fmt: skip
        engine.load_optimiser_state(_section(resumed, "optimiser"))
        sums.load(resumed.tensors["metric_sums"], ranks)
        log.info("resuming at update %d of %d", done, settings.n_updates)
        before = resumed.origin.get("ranks", ranks.size)
        if before != ranks.size:
            log.info("with %d ranks instead of %d: equal but for rounding and dropout", ranks.size, before)
        del resumed
    started = time.perf_counter()
    parts = settings.gradient_accumulation
    provenance = {**origin, "engine": settings.engine, "ranks": ranks.size}

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
        checkpoint = Checkpoint(step, seconds, supervised, tensors, provenance, best)
        save_checkpoint(checkpoints, checkpoint, run_id, settings.keep_checkpoints)

    opened = MetricsLog(folder, done, settings.loggers, run_id) if ranks.first else contextlib.nullcontext()
    with opened as metrics:
        if done == 0 and metrics:
            metrics.write(0, objective.constants())
        vote = ranks.vote(stop)
        tick, counted = time.perf_counter(), supervised
        for update in range(done, settings.n_updates):
            # Like samples, dropout masks are a function of the seed, the update and the rank.
            torch.manual_seed(_mask_seed(seed, update, ranks))
            batches = [
                sampler.batch(update, ranks.rank * parts + part, ranks.size * parts).to(device)
                for part in range(parts)
            ]
            result = engine.update(batches, objective, rate_factor(settings, update))
            sums.add(result.gradient_norm, result.columns)
            supervised += result.supervised * ranks.size
            tokens += sum(batch.actions.numel() for batch in batches) * ranks.size

            step = update + 1
            last, why = step == settings.n_updates, None
            if step % settings.log_every == 0 or last:
                gradient_norm, means = sums.take(ranks)
                values = {**objective.values(means), "gradient_norm": gradient_norm}
                values["learning_rate"] = settings.learning_rate * rate_factor(settings, update)
                elapsed = time.perf_counter() - tick
                values["supervised_actions_per_second"] = (supervised - counted) / elapsed
                values["tokens_per_second"] = tokens / elapsed
                _require_finite(values, step, settings, objective.section)
                if validation and validation.is_due(step, last):
                    engine.collect()
                    model.eval()
                    values["validation_return"] = validated = validation.measure(model)
                    model.train()
                    if best is None or validated > best[1]:
                        best = step, validated
                    if not last:  # all ranks follow the first one
                        why = ranks.broadcast(validation.give_up(step, best[1]) if ranks.first else None)
                if metrics:
                    metrics.write(step, values)
                objective.watch(values, step)  # after the write: the log shows why a run was stopped
                if progress and ranks.first:
                    progress(step, values)
                tick, counted, tokens = time.perf_counter(), supervised, 0
            stopping = vote()
            if step % settings.checkpoint_every == 0 or last or stopping or why or (best and best[0] == step):
                save(step)
            if why:
                ranks.barrier()
                raise PrunedError(why)
            if stopping and not last:
                ranks.barrier()  # the first rank's checkpoint is on disk
                stop.raise_if_set(f"training (update {step} of {settings.n_updates})")
        vote.close()
    engine.collect()
    seconds = earlier + time.perf_counter() - started
    return TrainingSummary(settings.n_updates, seconds, supervised)


def _newest_checkpoint(checkpoints: Path, run_id: str, ranks: Ranks) -> Checkpoint | None:
    """The newest undamaged checkpoint: the first rank chooses it, the others read the same one."""
    newest = load_newest(checkpoints, run_id, set_damaged_aside=True) if ranks.first else None
    step = ranks.broadcast(newest.step if newest else None)
    if step is None or ranks.first:
        return newest
    return load_checkpoint(checkpoints, step, run_id)


def _section(checkpoint: Checkpoint, name: str) -> dict[str, Tensor]:
    prefix = f"{name}/"
    return {k.removeprefix(prefix): v for k, v in checkpoint.tensors.items() if k.startswith(prefix)}


def _mask_seed(seed: int, update: int, ranks: Ranks) -> int:
    """A seed for each update and rank; those of different ranks are too far apart to coincide."""
    return seed * 1_000_003 + update + (ranks.rank << 44)


def _require_finite(values: dict[str, float], step: int, settings: LoopConfig, section: str) -> None:
    loss, norm = values["loss"], values["gradient_norm"]
    if not (math.isfinite(loss) and math.isfinite(norm)):
        raise CadError(
            f"training diverged: loss {loss}, gradient norm {norm} at update {step}; lower "
            f"{rates_in_words(settings, section)} or {section}.grad_clip "
            f"(now {settings.grad_clip:g}), or raise {section}.num_warmup_steps"
        )
