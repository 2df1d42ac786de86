"""One training between its updates: what it has done so far, and the files in which it says so."""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from cad.config import LoopConfig
from cad.errors import CadError
from cad.histories.batch import Batch
from cad.histories.sampler import WindowSampler
from cad.models.objective import Objective, rates_in_words
from cad.training.checkpoint import Checkpoint, load_checkpoint, load_newest, save_checkpoint
from cad.training.engines import Update
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


class Training:
    """What a training is made of, and how far it is; whoever computes its updates asks and tells it.

    Args:
        settings: the loop's settings.
        model: what is trained, in place.
        sampler: draws the batches.
        folder: gets ``checkpoints``, ``metrics.jsonl`` and the trackers' files, from the first rank.
        objective: turns the model's output into a loss.
        seed: determines the dropout masks.
        run_id: names the run: checkpoints of another one are refused.
        device: where batches and sums are.
        validation: when to score the model, and how.
        progress: told of every metrics line.
        ranks: the processes that share the training; all call every method alike.
        origin: plain data that is stored in checkpoints.
    """

    def __init__(
        self,
        settings: LoopConfig,
        model: nn.Module,
        sampler: WindowSampler,
        folder: Path,
        *,
        objective: Objective,
        seed: int,
        run_id: str,
        device: torch.device,
        validation: Validation | None = None,
        progress: Progress | None = None,
        ranks: Ranks = SINGLE_PROCESS,
        origin: Mapping[str, object] = {},
    ) -> None:
        self.settings, self.model, self.objective = settings, model, objective
        self.device, self.ranks = device, ranks
        self.step = 0
        """Finished updates."""
        self.sampler = sampler
        self._folder, self._seed, self._run_id = folder, seed, run_id
        self._validation, self._progress = validation, progress
        self._provenance = {**origin, "engine": settings.engine, "ranks": ranks.size}
        self.sums = MetricSums(objective.n_columns, device)
        self._seconds, self._supervised = 0.0, 0
        self._best: tuple[int, float] | None = None
        self._given_up: str | None = None
        self._metrics: MetricsLog | None = None
        # Since the last metrics line: when that was, supervised actions before it, tokens after it.
        self._tick, self._counted, self._tokens = 0.0, 0, 0

    @property
    def finished(self) -> bool:
        """Whether all updates are done."""
        return self.step >= self.settings.n_updates

    @property
    def mask_seed(self) -> int:
        """The seed of the next update's dropout masks on this rank.

        Like samples, masks are a function of the seed, the update and the rank; the seeds of different ranks
        are too far apart to coincide.
        """
        return self._seed * 1_000_003 + self.step + (self.ranks.rank << 44)

    @property
    def rate_factor(self) -> float:
        """The next update's learning rate as a share of the peak."""
        return rate_factor(self.settings, self.step)

    def resume(self) -> dict[str, Tensor]:
        """Go on from the newest checkpoint, if there is one; the optimiser's state in it, else nothing."""
        newest = self._newest_checkpoint()
        if newest is None:
            return {}
        self.model.load_state_dict(_section(newest, "model"))
        self.step, self._seconds, self._best = newest.step, newest.seconds, newest.best
        self._supervised = newest.supervised_actions
        self.sums.load(newest.tensors["metric_sums"], self.ranks)
        log.info("resuming at update %d of %d", self.step, self.settings.n_updates)
        before, size = newest.origin.get("ranks", self.ranks.size), self.ranks.size
        if before != size:
            log.info("with %d ranks instead of %d: equal but for rounding and dropout", size, before)
        return _section(newest, "optimiser")

    def _newest_checkpoint(self) -> Checkpoint | None:
        """The newest undamaged checkpoint: the first rank chooses it, the others read the same one."""
        checkpoints, ranks = self._folder / "checkpoints", self.ranks
        newest = load_newest(checkpoints, self._run_id, set_damaged_aside=True) if ranks.first else None
        step = ranks.broadcast(newest.step if newest else None)
        if step is None or ranks.first:
            return newest
        return load_checkpoint(checkpoints, step, self._run_id)

    @contextlib.contextmanager
    def recording(self) -> Iterator[None]:
        """Within the block, metrics are written and time counts."""
        with contextlib.ExitStack() as opened:
            if self.ranks.first:
                log_ = MetricsLog(
                    self._folder, self.step, self.settings.loggers, self._run_id, self.settings.log_every
                )
                self._metrics = opened.enter_context(log_)
                if self.step == 0:
                    self._metrics.write(0, self.objective.constants())
            self._started = self._tick = time.perf_counter()
            self._counted = self._supervised
            yield

    def batches(self) -> list[Batch]:
        """This rank's share of the next update's batch, in ``gradient_accumulation`` parts."""
        parts, ranks = self.settings.gradient_accumulation, self.ranks
        return [
            self.sampler.batch(self.step, ranks.rank * parts + part, ranks.size * parts, self.device)
            for part in range(parts)
        ]

    def add(self, update: Update, batches: Sequence[Batch]) -> None:
        """Count the update that was made of ``batches``."""
        self.sums.add(update.gradient_norm, update.columns)
        self.count(update.supervised, sum(batch.actions.numel() for batch in batches))

    def count(self, supervised: int, steps: int) -> None:
        """Count an update whose metrics are in :attr:`sums`: predictions, and steps of its windows."""
        self._supervised += supervised * self.ranks.size
        self._tokens += steps * self.ranks.size
        self.step += 1

    def pass_time(self, shared_by: int = 1) -> None:
        """Count the time since the last call; of trainings that share a process, each counts its share."""
        now = time.perf_counter()
        self._seconds += (now - self._started) / shared_by
        self._started = now

    def report(self, collect: Callable[[], None]) -> None:
        """Write a metrics line and validate, where it is time to.

        ``collect`` brings the current weights into the model.  Raises :class:`CadError` when the loss is not
        finite or the objective's watchdog objects.
        """
        settings, step = self.settings, self.step
        if step % settings.log_every and not self.finished:
            return
        gradient_norm, means = self.sums.take(self.ranks)
        values = {**self.objective.values(means), "gradient_norm": gradient_norm}
        values["learning_rate"] = settings.learning_rate * rate_factor(settings, step - 1)
        elapsed = time.perf_counter() - self._tick
        values["supervised_actions_per_second"] = (self._supervised - self._counted) / elapsed
        values["tokens_per_second"] = self._tokens / elapsed
        _require_finite(values, step, settings, self.objective.section)
        if self._validation and self._validation.is_due(step, self.finished):
            collect()
            self.model.eval()
            values["validation_return"] = validated = self._validation.measure(self.model)
            self.model.train()
            if self._best is None or validated > self._best[1]:
                self._best = step, validated
            if not self.finished:  # all ranks follow the first one
                why = self._validation.give_up(step, self._best[1]) if self.ranks.first else None
                self._given_up = self.ranks.broadcast(why)
        if self._metrics:
            self._metrics.write(step, values)
        self.objective.watch(values, step)  # after the write: the log shows why a run was stopped
        if self._progress and self.ranks.first:
            self._progress(step, values)
        self._tick, self._counted, self._tokens = time.perf_counter(), self._supervised, 0

    @property
    def is_due_to_save(self) -> bool:
        """Whether a checkpoint belongs after the latest update."""
        best = self._best is not None and self._best[0] == self.step
        due = self.step % self.settings.checkpoint_every == 0 or self.finished
        return due or best or self._given_up is not None

    def require_going_on(self) -> None:
        """Raise :class:`PrunedError` where the validation gave up; call it after saving."""
        if self._given_up is not None:
            self.ranks.barrier()  # the first rank's checkpoint is on disk
            raise PrunedError(self._given_up)

    def save(self, optimiser: Mapping[str, Tensor]) -> None:
        """Write a checkpoint of the model, which has the current weights, and the optimiser's state."""
        stacked = self.ranks.all_gather(self.sums.tensor)
        if not self.ranks.first:
            return
        tensors = {
            **{f"model/{k}": v for k, v in self.model.state_dict().items()},
            **{f"optimiser/{k}": v for k, v in optimiser.items()},
            "metric_sums": stacked,
        }
        checkpoint = Checkpoint(
            self.step, self._seconds, self._supervised, tensors, self._provenance, self._best
        )
        if self._metrics:
            self._metrics.sync()
        kept = self.settings.keep_checkpoints
        save_checkpoint(self._folder / "checkpoints", checkpoint, self._run_id, kept)

    @property
    def place(self) -> str:
        """How far it is, in words."""
        return f"training (update {self.step} of {self.settings.n_updates})"

    @property
    def summary(self) -> TrainingSummary:
        """What a finished training reports."""
        return TrainingSummary(self.settings.n_updates, self._seconds, self._supervised)


def _section(checkpoint: Checkpoint, name: str) -> dict[str, Tensor]:
    prefix = f"{name}/"
    return {k.removeprefix(prefix): v for k, v in checkpoint.tensors.items() if k.startswith(prefix)}


def _require_finite(values: dict[str, float], step: int, settings: LoopConfig, section: str) -> None:
    loss, norm = values["loss"], values["gradient_norm"]
    if not (math.isfinite(loss) and math.isfinite(norm)):
        raise CadError(
            f"training diverged: loss {loss}, gradient norm {norm} at update {step}; lower "
            f"{rates_in_words(settings, section)} or {section}.grad_clip "
            f"(now {settings.grad_clip:g}), or raise {section}.num_warmup_steps"
        )
