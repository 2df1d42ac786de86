"""The training loop: one for every model.

Every update is a function of the weights, the optimiser's moments, the seed and the update's
number; a run that was stopped anywhere and resumed equals one that was not, bit for bit.
"""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from cad.config.schema import N_ACTIONS, Config
from cad.errors import CadError
from cad.histories.batch import Batch
from cad.histories.sampler import WindowSampler
from cad.interrupt import StopFlag
from cad.models import RegionAD, SequenceModel
from cad.models.region_ad import END
from cad.training.checkpoint import Checkpoint, load_newest, save_checkpoint
from cad.training.metrics import MetricsLog
from cad.training.optimiser import Optimiser, rate_factor

log = logging.getLogger(__name__)

TOKEN_TYPE_METRICS = ("token_type_loss", "token_type_accuracy", "end_accuracy")

Validate = Callable[[SequenceModel], float]
"""Mean return, as a share of the optimum, on the validation tasks."""

Progress = Callable[[int, dict[str, float]], None]
"""Called with the number of finished updates and the latest metrics."""


@dataclass(frozen=True)
class TrainingSummary:
    """What a finished training reports; ``seconds`` includes those before any interruption."""

    updates: int
    seconds: float
    supervised_actions: int


def action_loss(logits: Tensor, batch: Batch, config: Config) -> tuple[Tensor, Tensor, Tensor]:
    """Cross-entropy of every action of every segment.

    ``logits`` is (B, segments, T, actions).  Returns the weighted loss to descend (scalar, label
    smoothing included), and the mean cross-entropy and accuracy of each segment (segments,),
    without gradient and without smoothing.
    """
    B, segments, T, _ = logits.shape
    logits = logits.float()
    actions = batch.actions.view(B, -1, T)[:, batch.burn_in :]
    log_probabilities = F.log_softmax(logits, dim=-1)
    by_segment = -log_probabilities.gather(-1, actions[..., None]).mean(dim=(0, 2, 3))
    smoothing = config.train.label_smoothing
    smoothed = (1 - smoothing) * by_segment
    if smoothing:
        smoothed = smoothed - smoothing * log_probabilities.mean(dim=(0, 2, 3))
    weights = smoothed.new_tensor(depth_weights(config, segments))
    loss = (smoothed * weights).sum()
    with torch.no_grad():
        accuracy = (logits.argmax(-1) == actions).float().mean(dim=(0, 2))
    return loss, by_segment.detach(), accuracy


def token_type_loss(logits: Tensor, targets: Tensor) -> dict[str, Tensor]:
    """Cross-entropy of the next element's type, (N, elements, 3) against (elements,), and accuracies.

    ``end_accuracy`` is that at the elements that ``</compress>`` follows: all others are so many
    that :data:`TRANSITION` everywhere is nearly always right.
    """
    logits = logits.float()
    wanted = targets.expand(logits.shape[:2])
    right = (logits.argmax(-1) == wanted).float()
    return {
        "token_type_loss": F.cross_entropy(logits.flatten(0, 1), wanted.flatten()),
        "token_type_accuracy": right.mean(),
        "end_accuracy": right[:, targets == END].mean(),
    }


def depth_weights(config: Config, segments: int) -> list[float]:
    """Share of each segment in the loss; they sum to one."""
    weights = config.train.depth_weights or (1.0,) * segments
    return [weight / sum(weights) for weight in weights]


class MetricSums:
    """Sums since the last metrics line, kept on the device so that no update waits for them."""

    def __init__(self, weights: list[float], device: torch.device, others: tuple[str, ...] = ()) -> None:
        # Number of updates, gradient norm; then loss and accuracy by depth; then the others.
        self.tensor = torch.zeros(2 + 2 * len(weights) + len(others), device=device, dtype=torch.float64)
        self._weights = weights
        self._others = others

    def add(
        self, gradient_norm: Tensor, by_depth: Tensor, accuracy: Tensor, others: dict[str, Tensor]
    ) -> None:
        """Add one update."""
        head = [torch.ones_like(gradient_norm), gradient_norm]
        tail = [others[name].detach() for name in self._others]
        self.tensor += torch.cat([torch.stack(head), by_depth, accuracy, *(x[None] for x in tail)]).double()

    def take(self) -> dict[str, float]:
        """Means since the last call; waits for the device."""
        count, norm, *rest = self.tensor.tolist()
        self.tensor.zero_()
        n = len(self._weights)
        losses, accuracies = [x / count for x in rest[:n]], [x / count for x in rest[n : 2 * n]]
        return {
            "loss": sum(w * loss for w, loss in zip(self._weights, losses, strict=True)),
            "accuracy": sum(accuracies) / n,
            "gradient_norm": norm / count,
            **{f"loss_depth_{k}": loss for k, loss in enumerate(losses)},
            **{f"accuracy_depth_{k}": accuracy for k, accuracy in enumerate(accuracies)},
            **{name: x / count for name, x in zip(self._others, rest[2 * n :], strict=True)},
        }


def train(
    config: Config,
    model: SequenceModel,
    sampler: WindowSampler,
    folder: Path,
    *,
    run_id: str,
    device: torch.device,
    stop: StopFlag,
    validate: Validate | None = None,
    progress: Progress | None = None,
) -> TrainingSummary:
    """Train ``model`` in place, resuming from ``folder`` where an earlier run left checkpoints.

    Writes ``folder/checkpoints``, ``folder/metrics.jsonl`` and ``folder/tensorboard``.  Raises
    :class:`CadError` when the watchdog sees a loss that is not finite or that does not fall, and
    :class:`~cad.interrupt.InterruptedRun`, after saving, when ``stop`` is set.
    """
    settings = config.train
    model.to(device).train()
    optimiser = Optimiser(model, settings)
    others = TOKEN_TYPE_METRICS if isinstance(model, RegionAD) else ()
    sums = MetricSums(depth_weights(config, model.n_depths), device, others)
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
            # Every window is decoded at every depth; only the weights can differ.
            weights = enumerate(depth_weights(config, model.n_depths))
            shares = {f"sample_share_depth_{k}": 1 / model.n_depths for k in range(model.n_depths)}
            metrics.write(0, shares | {f"loss_weight_depth_{k}": weight for k, weight in weights})
        tick, counted = time.perf_counter(), supervised
        for update in range(done, settings.n_updates):
            # Dropout masks follow from the seed and the update, like the samples.
            torch.manual_seed(config.seed * 1_000_003 + update)
            batch = sampler.batch(update).to(device)
            with _autocast(config, device):
                output = forward(batch)
            logits, type_logits = output if isinstance(output, tuple) else (output, None)
            loss, by_depth, accuracy = action_loss(logits, batch, config)
            types: dict[str, Tensor] = {}
            if isinstance(model, RegionAD):
                types = token_type_loss(type_logits, model.type_targets(batch.segment_length, device))
                loss = loss + settings.token_type_weight * types["token_type_loss"]
            loss.backward()  # type: ignore[no-untyped-call]
            norm = torch.nn.utils.clip_grad_norm_(parameters, settings.grad_clip)
            optimiser.step(rate_factor(settings, update))
            sums.add(norm, by_depth, accuracy, types)
            supervised += logits.shape[:3].numel()
            tokens += batch.actions.numel()

            step = update + 1
            last = step == settings.n_updates
            if step % settings.log_every == 0 or last:
                values = sums.take()
                values["learning_rate"] = settings.learning_rate * rate_factor(settings, update)
                elapsed = time.perf_counter() - tick
                values["supervised_actions_per_second"] = (supervised - counted) / elapsed
                values["tokens_per_second"] = tokens / elapsed
                _watch(values, step, config)
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


def _restore(found: Checkpoint, model: SequenceModel, optimiser: Optimiser, sums: MetricSums) -> None:
    def section(name: str) -> dict[str, Tensor]:
        return {k.removeprefix(f"{name}/"): v for k, v in found.tensors.items() if k.startswith(f"{name}/")}

    model.load_state_dict(section("model"))
    optimiser.load_tensors(section("optimiser"))
    sums.tensor.copy_(found.tensors["metric_sums"])


def _watch(values: dict[str, float], step: int, config: Config) -> None:
    """Stop a training that cannot succeed, and say what to try."""
    loss, norm = values["loss"], values["gradient_norm"]
    if not (math.isfinite(loss) and math.isfinite(norm)):
        raise CadError(
            f"training diverged: loss {loss}, gradient norm {norm} at update {step}; lower "
            f"{_rates(config)} or train.grad_clip "
            f"(now {config.train.grad_clip:g}), or raise train.num_warmup_steps"
        )
    chance = math.log(N_ACTIONS)
    share = config.train.watchdog_share
    if share is not None and step >= share * config.train.n_updates and loss > 0.97 * chance:
        raise CadError(
            f"training does not learn: loss {loss:.3f} after {step} of {config.train.n_updates} updates is "
            f"still at chance level (log {N_ACTIONS} = {chance:.3f}); try another {_rates(config)}, "
            "more train.num_warmup_steps, or look at the histories with `cad histories plot`"
        )


def _rates(config: Config) -> str:
    rates = f"train.learning_rate (now {config.train.learning_rate:g})"
    if config.train.optimizer == "muon":
        rates += f" and train.muon_learning_rate (now {config.train.muon_learning_rate:g})"
    return rates
