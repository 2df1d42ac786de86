"""Objectives that reconstruct compressed steps: pre-training of the encoder, and an auxiliary loss."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from cad.config.training import PretrainConfig, TrainConfig
from cad.envs.family import Spaces
from cad.errors import CadError
from cad.histories.batch import Batch
from cad.models.compressed_ad.config import CompressedADConfig
from cad.models.compressed_ad.reconstruction import Reconstruction, field_widths
from cad.models.objective import ActionObjective, Outcome, constant


def depth_shares(depths: int, settings: PretrainConfig) -> list[float]:
    """Share of depths 1, 2, ... in the reconstruction loss; they sum to one."""
    weights = settings.depth_weights or range(1, depths + 1)
    return [weight / sum(weights) for weight in weights]


class ReconstructionLoss:
    """Loss and scores of a reconstruction, depth by depth."""

    def __init__(self, depths: int, settings: PretrainConfig, spaces: Spaces) -> None:
        self._widths = field_widths(spaces)
        self._tokens = settings.objective == "tokens"
        self.depths = depths
        self.shares = depth_shares(depths, settings)
        self.scores = [f"accuracy_{name}" for name in self._widths] if self._tokens else ["correlation"]
        self.judgement: Hashable = (tuple(self._widths.items()), self._tokens, tuple(self.shares))

    def __call__(self, reconstruction: Reconstruction, batch: Batch) -> tuple[Tensor, Tensor]:
        """Losses (depths,), with gradient, and scores (scores, depths), without."""
        length, skipped = batch.segment_length, batch.burn_in * batch.segment_length
        steps = batch.steps
        fields = torch.cat(
            [steps.observation, torch.stack([steps.previous_action, steps.previous_reward], dim=-1)], dim=-1
        )[:, skipped:]
        judged = [
            self._judge_tokens(output.float(), fields[:, : k * length])
            if self._tokens
            else _judge_embeddings(output.float(), reconstruction.embedded[:, : k * length].float())
            for k, output in enumerate(reconstruction.outputs, start=1)
        ]
        return torch.stack([loss for loss, _ in judged]), torch.stack([score for _, score in judged], dim=1)

    def weighted(self, losses: Tensor) -> Tensor:
        """The loss to minimise, of losses (depths,)."""
        return (losses * constant(tuple(self.shares), losses.dtype, losses.device)).sum()

    def _judge_tokens(self, output: Tensor, fields: Tensor) -> tuple[Tensor, Tensor]:
        """Mean cross-entropy of the fields (B, T, fields), and the accuracy of each."""
        losses, accuracies = [], []
        for i, logits in enumerate(torch.split(output, list(self._widths.values()), dim=-1)):
            losses.append(F.cross_entropy(logits.flatten(0, 1), fields[..., i].flatten()))
            accuracies.append((logits.detach().argmax(-1) == fields[..., i]).float().mean())
        return torch.stack(losses).mean(), torch.stack(accuracies)


def _judge_embeddings(output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Mean squared error, and the correlation with every dimension centred: a constant scores zero."""
    with torch.no_grad():
        a, b = (x.flatten(0, 1) - x.flatten(0, 1).mean(0) for x in (output, target))
        scale = (a.square().sum() * b.square().sum()).sqrt()
        correlation = (a * b).sum() / scale.clamp_min(1e-12)
    return F.mse_loss(output, target), correlation[None]


class PretrainingObjective:
    """Reconstruct every compressed step at every depth; watch that latents and targets stay alive."""

    section = "pretrain"
    takes_padding = False

    def __init__(self, config: CompressedADConfig, settings: PretrainConfig, spaces: Spaces) -> None:
        self._settings = settings
        self._judge = ReconstructionLoss(config.max_compression_depth, settings, spaces)
        # Loss, latent variance and scores by depth; the targets' variance.
        self.n_columns = (2 + len(self._judge.scores)) * self._judge.depths + 1
        self.judgement = self._judge.judgement

    def __call__(self, output: Reconstruction, batch: Batch) -> Outcome:
        """See :meth:`~cad.models.objective.Objective.__call__`; supervised are the reconstructed steps."""
        losses, scores = self._judge(output, batch)
        loss = self._judge.weighted(losses)
        with torch.no_grad():
            # Between histories, for each latent and dimension; between steps, for each dimension.
            latents = output.latents.float().var(dim=0, correction=0).mean(dim=(1, 2))
            targets = output.embedded.float().flatten(0, 1).var(dim=0, correction=0).mean()
            columns = torch.cat([losses, latents, scores.flatten(), targets[None]])
        windows, depths = output.latents.shape[:2]
        return Outcome(loss, columns, self.predictions(windows, depths, batch.segment_length))

    def predictions(self, windows: int, segments: int, length: int) -> int:
        """All steps so far, after every segment."""
        return windows * length * segments * (segments + 1) // 2

    def constants(self) -> dict[str, float]:
        """Every depth is reconstructed in every window; the weights differ."""
        return {f"loss_weight_depth_{k}": share for k, share in enumerate(self._judge.shares, start=1)}

    def values(self, means: Sequence[float]) -> dict[str, float]:
        """Loss (weighted), scores, and the variances that a collapse shows in."""
        judge, depths = self._judge, self._judge.depths
        parts = [means[i * depths : (i + 1) * depths] for i in range(2 + len(judge.scores))]
        losses, variances, scores = parts[0], parts[1], dict(zip(judge.scores, parts[2:], strict=True))
        values = {"loss": sum(share * loss for share, loss in zip(judge.shares, losses, strict=True))}
        averages = {name: sum(by_depth) / depths for name, by_depth in scores.items()}
        if "correlation" not in averages:
            values["accuracy"] = sum(averages.values()) / len(averages)
        values |= averages | {"latent_variance": min(variances), "target_variance": means[-1]}
        for k in range(depths):
            values[f"loss_depth_{k + 1}"] = losses[k]
            values[f"latent_variance_depth_{k + 1}"] = variances[k]
            values |= {f"{name}_depth_{k + 1}": by_depth[k] for name, by_depth in scores.items()}
        return values

    def watch(self, values: dict[str, float], step: int) -> None:
        """Stop when all histories get the same latents, or all steps the same embedding."""
        settings = self._settings
        if step < max(settings.collapse_after * settings.n_updates, settings.num_warmup_steps):
            return
        for key, what, between in (
            ("latent_variance", "latents", "histories"),
            ("target_variance", "step embeddings", "steps"),
        ):
            if values[key] < settings.collapse_variance:
                raise CadError(
                    f"the encoder collapsed: after {step} of {settings.n_updates} updates of pre-training "
                    f"the {what} vary by {values[key]:.2g} between {between} "
                    f"(pretrain.collapse_variance={settings.collapse_variance:g}, of at most about 1), so "
                    "they say next to nothing; lower pretrain.learning_rate and "
                    "pretrain.muon_learning_rate, raise pretrain.num_warmup_steps or pretrain.n_updates, or "
                    "use pretrain.objective=tokens, whose targets cannot collapse"
                )


class AuxiliaryObjective:
    """The actions, plus ``reconstruction_weight`` times the reconstruction of compressed steps."""

    section = "train"
    takes_padding = False

    def __init__(
        self, config: CompressedADConfig, train: TrainConfig, pretrain: PretrainConfig, spaces: Spaces
    ) -> None:
        self._actions = ActionObjective(train, config.n_depths, spaces.n_actions)
        self._judge = ReconstructionLoss(config.max_compression_depth, pretrain, spaces)
        self._weight = train.reconstruction_weight
        self.n_columns = self._actions.n_columns + 1 + len(self._judge.scores)
        self.judgement: Hashable = (self._actions.judgement, self._judge.judgement, self._weight)

    def __call__(self, output: tuple[Tensor, Reconstruction], batch: Batch) -> Outcome:
        """See :meth:`~cad.models.objective.Objective.__call__`; takes ``WithReconstruction``'s output."""
        logits, reconstruction = output
        actions = self._actions(logits, batch)
        losses, scores = self._judge(reconstruction, batch)
        loss = self._judge.weighted(losses)
        columns = torch.cat([actions.columns, loss.detach()[None], scores.mean(dim=1)])
        return Outcome(actions.loss + self._weight * loss, columns, actions.supervised)

    def predictions(self, windows: int, segments: int, length: int) -> int:
        """Those of the actions."""
        return self._actions.predictions(windows, segments, length)

    def constants(self) -> dict[str, float]:
        """Those of the actions."""
        return self._actions.constants()

    def values(self, means: Sequence[float]) -> dict[str, float]:
        """The actions' metrics (``loss`` is theirs alone) and ``reconstruction_...``."""
        loss, *scores = means[self._actions.n_columns :]
        named = {
            f"reconstruction_{name}": score for name, score in zip(self._judge.scores, scores, strict=True)
        }
        actions = self._actions.values(means[: self._actions.n_columns])
        return {**actions, "reconstruction_loss": loss, **named}

    def watch(self, values: dict[str, float], step: int) -> None:
        """That of the actions."""
        self._actions.watch(values, step)
