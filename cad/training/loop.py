"""The training loop: one for every model.

Every update is a function of the weights, the optimiser's moments, the seed and the update's
number; a run that was stopped anywhere and resumed equals one that was not, bit for bit.
"""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cad.config.schema import N_ACTIONS, Config, TrainConfig
from cad.errors import CadError
from cad.histories.batch import Batch
from cad.histories.sampler import WindowSampler
from cad.interrupt import StopFlag
from cad.training.checkpoint import Checkpoint, load_newest, save_checkpoint
from cad.training.metrics import MetricsLog
from cad.training.optimiser import Optimiser, rate_factor

log = logging.getLogger(__name__)

Model = TypeVar("Model", bound=nn.Module)

Progress = Callable[[int, dict[str, float]], None]
"""Called with the number of finished updates and the latest metrics."""


@dataclass(frozen=True)
class TrainingSummary:
    """What a finished training reports; ``seconds`` includes those before any interruption."""

    updates: int
    seconds: float
    supervised_actions: int


@dataclass(frozen=True)
class Outcome:
    """What an objective says of one update.

    ``loss`` is descended; ``columns`` (n_columns,) are averaged into the metrics, without gradient.
    """

    loss: Tensor
    columns: Tensor
    supervised: int


class Objective(Protocol):
    """What a training descends, and what its metrics say: the one difference between trainings."""

    section: str
    """The config's section that messages point at."""
    n_columns: int

    def __call__(self, output: Any, batch: Batch) -> Outcome:
        """Judge the model's output for a batch."""

    def constants(self) -> dict[str, float]:
        """What the first metrics line says, once."""

    def values(self, means: Sequence[float]) -> dict[str, float]:
        """Metrics, ``loss`` among them, from the columns' means since the last metrics line."""

    def watch(self, values: dict[str, float], step: int) -> None:
        """Raise :class:`CadError` where the training cannot succeed, and say what to try."""


def action_loss(blocks: Sequence[Tensor], batch: Batch, config: Config) -> tuple[Tensor, Tensor, Tensor]:
    """Cross-entropy of every action of every segment (of its last one with ``loss_on: last``).

    ``blocks`` are logits (B, segments, T, actions), together of all segments behind the burn-in.
    Returns the weighted loss to descend (scalar, label smoothing included), and the mean
    cross-entropy and accuracy of each segment (segments,), without gradient and without smoothing.
    """
    taken = batch.actions[:, batch.burn_in * batch.segment_length :]
    judged, start = [], 0
    for logits in blocks:
        end = start + logits.shape[1] * logits.shape[2]
        judged.append(_judge_segments(logits.float(), taken[:, start:end].view(logits.shape[:3]), config))
        start = end
    smoothed, by_segment, accuracy = (torch.cat(parts) for parts in zip(*judged, strict=True))
    weights = smoothed.new_tensor(depth_weights(config, len(smoothed)))
    return (smoothed * weights).sum(), by_segment, accuracy


def _judge_segments(logits: Tensor, actions: Tensor, config: Config) -> tuple[Tensor, Tensor, Tensor]:
    """Smoothed cross-entropy, cross-entropy and accuracy, each (segments,), of segments of one length."""
    if config.train.loss_on == "last":
        logits, actions = logits[:, :, -1:], actions[:, :, -1:]
    log_probabilities = F.log_softmax(logits, dim=-1)
    by_segment = -log_probabilities.gather(-1, actions[..., None]).mean(dim=(0, 2, 3))
    smoothing = config.train.label_smoothing
    smoothed = (1 - smoothing) * by_segment
    if smoothing:
        smoothed = smoothed - smoothing * log_probabilities.mean(dim=(0, 2, 3))
    with torch.no_grad():
        accuracy = (logits.argmax(-1) == actions).float().mean(dim=(0, 2))
    return smoothed, by_segment.detach(), accuracy


def depth_weights(config: Config, segments: int) -> list[float]:
    """Share of each segment in the loss; they sum to one."""
    weights = config.train.depth_weights or (1.0,) * segments
    return [weight / sum(weights) for weight in weights]


class ActionObjective:
    """Every position of every segment predicts its action."""

    section = "train"

    def __init__(self, config: Config) -> None:
        self._config = config
        self._depths = config.model.n_depths
        self._weights = depth_weights(config, self._depths)
        self.n_columns = 2 * self._depths

    def __call__(self, output: Tensor | tuple[Tensor, ...], batch: Batch) -> Outcome:
        """See :meth:`Objective.__call__`; the columns are loss, then accuracy, of each depth.

        ``output`` is logits (B, segments, T, actions), or blocks of them with a T each.
        """
        blocks = (output,) if isinstance(output, Tensor) else output
        loss, by_depth, accuracy = action_loss(blocks, batch, self._config)
        every = self._config.train.loss_on == "all"
        supervised = sum(
            B * segments * (T if every else 1) for B, segments, T, _ in (block.shape for block in blocks)
        )
        return Outcome(loss, torch.cat([by_depth, accuracy]), supervised)

    def constants(self) -> dict[str, float]:
        """Every window is decoded at every depth; only the weights can differ."""
        shares = {f"sample_share_depth_{k}": 1 / self._depths for k in range(self._depths)}
        return shares | {f"loss_weight_depth_{k}": weight for k, weight in enumerate(self._weights)}

    def values(self, means: Sequence[float]) -> dict[str, float]:
        """Loss (weighted) and accuracy, over all depths and by depth."""
        losses, accuracies = means[: self._depths], means[self._depths :]
        return {
            "loss": sum(w * loss for w, loss in zip(self._weights, losses, strict=True)),
            "accuracy": sum(accuracies) / self._depths,
            **{f"loss_depth_{k}": loss for k, loss in enumerate(losses)},
            **{f"accuracy_depth_{k}": accuracy for k, accuracy in enumerate(accuracies)},
        }

    def watch(self, values: dict[str, float], step: int) -> None:
        """A loss that does not leave chance level will not."""
        settings, loss, chance = self._config.train, values["loss"], math.log(N_ACTIONS)
        share = settings.watchdog_share
        if share is not None and step >= share * settings.n_updates and loss > 0.97 * chance:
            raise CadError(
                f"training does not learn: loss {loss:.3f} after {step} of {settings.n_updates} updates is "
                f"still at chance level (log {N_ACTIONS} = {chance:.3f}); "
                f"try another {_rates(settings, self.section)}, "
                "more train.num_warmup_steps, or look at the histories with `cad histories plot`"
            )


class MetricSums:
    """Sums since the last metrics line, kept on the device so that no update waits for them."""

    def __init__(self, n_columns: int, device: torch.device) -> None:
        # Number of updates, gradient norm; then the objective's columns.
        self.tensor = torch.zeros(2 + n_columns, device=device, dtype=torch.float64)

    def add(self, gradient_norm: Tensor, columns: Tensor) -> None:
        """Add one update."""
        head = torch.stack([torch.ones_like(gradient_norm), gradient_norm])
        self.tensor += torch.cat([head, columns]).double()

    def take(self) -> tuple[float, list[float]]:
        """Means of gradient norm and columns since the last call; waits for the device."""
        count, norm, *columns = self.tensor.tolist()
        self.tensor.zero_()
        return norm / count, [column / count for column in columns]


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
) -> TrainingSummary:
    """Train ``model`` in place, resuming from ``folder`` where an earlier run left checkpoints.

    ``objective`` is that of the model's output, by default the actions.  ``validate`` is the mean
    return, as a share of the optimum, on the validation tasks.
    Writes ``folder/checkpoints``, ``folder/metrics.jsonl`` and ``folder/tensorboard``.  Raises
    :class:`CadError` when the watchdog sees a loss that is not finite or that does not fall, and
    :class:`~cad.interrupt.InterruptedRun`, after saving, when ``stop`` is set.
    """
    settings = config.train
    model.to(device).train()
    optimiser = Optimiser(model, settings)
    if objective is None:
        objective = ActionObjective(config)
    sums = MetricSums(objective.n_columns, device)
    parameters = list(model.parameters())
    forward = torch.compile(model) if settings.compile else model
    checkpoints = folder / "checkpoints"

    done, earlier, supervised, tokens = 0, 0.0, 0, 0
    if (found := load_newest(checkpoints, run_id)) is not None:
        done, earlier, supervised = found.step, found.seconds, found.supervised_actions
        _restore(found, model, optimiser, sums)
        log.info("resuming at update %d of %d", done, settings.n_updates)
    started = time.perf_counter()

    def save(step: int) -> None:
        tensors = {
            **{f"model/{k}": v for k, v in model.state_dict().items()},
            **{f"optimiser/{k}": v for k, v in optimiser.tensors().items()},
            "metric_sums": sums.tensor,
        }
        seconds = earlier + time.perf_counter() - started
        save_checkpoint(
            checkpoints, Checkpoint(step, seconds, supervised, tensors), run_id, settings.keep_checkpoints
        )

    with MetricsLog(folder, done) as metrics:
        if done == 0:
            metrics.write(0, objective.constants())
        tick, counted = time.perf_counter(), supervised
        for update in range(done, settings.n_updates):
            # Dropout masks follow from the seed and the update, like the samples.
            torch.manual_seed(config.seed * 1_000_003 + update)
            batch = sampler.batch(update).to(device)
            with _autocast(config, device):
                output = forward(batch)
            outcome = objective(output, batch)
            outcome.loss.backward()  # type: ignore[no-untyped-call]
            norm = torch.nn.utils.clip_grad_norm_(parameters, settings.grad_clip)
            optimiser.step(rate_factor(settings, update))
            sums.add(norm, outcome.columns)
            supervised += outcome.supervised
            tokens += batch.actions.numel()

            step = update + 1
            last = step == settings.n_updates
            if step % settings.log_every == 0 or last:
                gradient_norm, means = sums.take()
                values = {**objective.values(means), "gradient_norm": gradient_norm}
                values["learning_rate"] = settings.learning_rate * rate_factor(settings, update)
                elapsed = time.perf_counter() - tick
                values["supervised_actions_per_second"] = (supervised - counted) / elapsed
                values["tokens_per_second"] = tokens / elapsed
                _require_finite(values, step, settings, objective.section)
                objective.watch(values, step)
                if validate and settings.validate_every and (step % settings.validate_every == 0 or last):
                    model.eval()
                    values["validation_return"] = validate(model)
                    model.train()
                metrics.write(step, values)
                if progress:
                    progress(step, values)
                tick, counted, tokens = time.perf_counter(), supervised, 0
            stopping = stop()
            if step % settings.checkpoint_every == 0 or last or stopping:
                save(step)
            if stopping and not last:
                stop.raise_if_set(f"training (update {step} of {settings.n_updates})")
    seconds = earlier + time.perf_counter() - started
    return TrainingSummary(settings.n_updates, seconds, supervised)


def _autocast(config: Config, device: torch.device) -> contextlib.AbstractContextManager[None]:
    if config.train.precision == "fp32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)


def _restore(found: Checkpoint, model: nn.Module, optimiser: Optimiser, sums: MetricSums) -> None:
    def section(name: str) -> dict[str, Tensor]:
        return {k.removeprefix(f"{name}/"): v for k, v in found.tensors.items() if k.startswith(f"{name}/")}

    model.load_state_dict(section("model"))
    optimiser.load_tensors(section("optimiser"))
    sums.tensor.copy_(found.tensors["metric_sums"])


def _require_finite(values: dict[str, float], step: int, settings: TrainConfig, section: str) -> None:
    loss, norm = values["loss"], values["gradient_norm"]
    if not (math.isfinite(loss) and math.isfinite(norm)):
        raise CadError(
            f"training diverged: loss {loss}, gradient norm {norm} at update {step}; lower "
            f"{_rates(settings, section)} or {section}.grad_clip "
            f"(now {settings.grad_clip:g}), or raise {section}.num_warmup_steps"
        )


def _rates(settings: TrainConfig, section: str) -> str:
    rates = f"{section}.learning_rate (now {settings.learning_rate:g})"
    if settings.optimizer == "muon":
        rates += f" and {section}.muon_learning_rate (now {settings.muon_learning_rate:g})"
    return rates
