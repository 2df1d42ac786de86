"""Pre-training and the auxiliary loss: what they learn and report, and how a collapse is noticed."""

from __future__ import annotations

import dataclasses

import pytest
import safetensors.torch
import torch

from cad.envs.registry import task_family
from cad.errors import CadError
from cad.interrupt import InterruptedRun, StopFlag
from cad.models.compressed_ad.objectives import PretrainingObjective, ReconstructionLoss
from cad.models.compressed_ad.reconstruction import EncoderPretraining, WithReconstruction
from cad.models.objective import ActionObjective
from cad.training.learner import build_model, build_pretraining, build_training, training_objective
from cad.training.metrics import read_metrics

L = 8
SHORT = {"n_updates": 20, "batch_size": 8, "log_every": 5, "checkpoint_every": 10, "num_warmup_steps": 2,
         "collapse_variance": 0}  # fmt: skip


class StoppingSampler:
    """Requests a stop when the batch of update ``at`` is drawn."""

    def __init__(self, sampler, at=-1):
        self.sampler, self.at, self.stop = sampler, at, StopFlag()

    def batch(self, update, *where):
        if update == self.at:
            self.stop.request()
        return self.sampler.batch(update, *where)


def fit(learner, folder, at=-1):
    """Train; at update ``at`` a stop is requested."""
    learner = dataclasses.replace(learner, sampler=StoppingSampler(learner.sampler, at))
    learner.fit(folder, run_id="run", device=torch.device("cpu"), stop=learner.sampler.stop)


def pretrain(config, arrays, folder, at=-1):
    learner = build_pretraining(config, arrays)
    fit(learner, folder, at)
    return learner.model, read_metrics(folder / "metrics.jsonl")


def pretraining(config):
    return EncoderPretraining(config.model, config.pretrain, spaces(config))


def spaces(config):
    return task_family(config.env).spaces


def reconstruction_loss(config):
    return ReconstructionLoss(config.model.max_compression_depth, config.pretrain, spaces(config))


def pretraining_objective(config):
    return PretrainingObjective(config.model, config.pretrain, spaces(config))


@pytest.mark.parametrize("objective", ["tokens", "embeddings"])
def test_it_learns_to_remember(objective, tiny_config, toy_histories, tmp_path):
    """The toy's steps are noise: only what went through the latents can be said of them."""
    settings = SHORT | {"objective": objective, "n_updates": 300, "learning_rate": 1e-2}
    config = tiny_config(
        model={"n_transit": 2, "n_latent": 4, "max_compression_depth": 1, "min_compress_length": 2},
        pretrain=settings | {"batch_size": 32},
    )
    _, (_, first, *_, last) = pretrain(config, toy_histories, tmp_path)
    if objective == "tokens":
        assert first["accuracy"] < 0.5 and last["accuracy"] > 0.7
        names = {"row", "column", "action", "reward"}
        assert last["accuracy"] == pytest.approx(sum(last[f"accuracy_{n}"] for n in names) / 4)
    else:
        assert first["correlation"] < 0.4 and last["correlation"] > 0.5
    assert last["latent_variance"] > 0.01 < last["target_variance"]


def test_a_stopped_and_resumed_pretraining_equals_an_uninterrupted_one(tiny_config, toy_histories, tmp_path):
    config = tiny_config(model={"dropout": 0.2}, pretrain=SHORT)
    whole, _ = pretrain(config, toy_histories, tmp_path / "whole")
    with pytest.raises(InterruptedRun, match="update 14 of 20"):
        pretrain(config, toy_histories, tmp_path / "stopped", at=13)
    resumed, _ = pretrain(config, toy_histories, tmp_path / "stopped")
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))


def test_deeper_samples_weigh_more(tiny_config, toy_histories, tmp_path):
    _, (start, line, *_) = pretrain(tiny_config(pretrain=SHORT), toy_histories, tmp_path)
    shares = {f"loss_weight_depth_{k}": pytest.approx(k / 3) for k in (1, 2)}
    assert start == {"step": 0, **shares}
    assert line["loss"] == pytest.approx((line["loss_depth_1"] + 2 * line["loss_depth_2"]) / 3)
    assert line["loss_depth_1"] != line["loss_depth_2"]


def test_scores_are_those_of_the_right_steps(tiny_config, random_batch):
    """Logits made from the truth score 1 at every depth, behind a burn-in too; shifted ones do not."""
    config, batch = tiny_config(), random_batch(4, 3 * L, L, 1)
    judge = reconstruction_loss(config)
    actual = WithReconstruction(build_model(config), config.pretrain)(random_batch(4, 4 * L, L, 1))[1]
    steps = batch.steps
    fields = [*steps.observation.unbind(-1), steps.previous_action, steps.previous_reward]
    truth = torch.cat(
        [torch.nn.functional.one_hot(f, w) for f, w in zip(fields, (5, 5, 6, 2), strict=True)], dim=-1
    ).float()[:, L:]
    right = actual._replace(outputs=(50 * truth[:, :L], 50 * truth[:, : 2 * L]))
    losses, scores = judge(right, batch)
    assert (scores == 1).all() and scores.shape == (4, 2)
    torch.testing.assert_close(losses, torch.zeros(2), atol=1e-6, rtol=0)
    shifted = actual._replace(outputs=tuple(o.roll(1, dims=1) for o in right.outputs))
    assert (judge(shifted, batch)[1] < 0.9).all()


def test_a_constant_has_no_correlation(tiny_config, random_batch):
    config = tiny_config(pretrain={"objective": "embeddings"})
    judge, batch = reconstruction_loss(config), random_batch(4, 2 * L, L)
    actual = pretraining(config)(batch)
    constant = actual.embedded.mean(dim=(0, 1)).expand(4, 2 * L, -1)
    for target, expected in ((actual.embedded, 1.0), (constant, 0.0)):
        scored = actual._replace(outputs=(target[:, :L], target))
        assert judge(scored, batch)[1][0].tolist() == pytest.approx([expected] * 2, abs=1e-3)


def test_targets_give_no_gradient(tiny_config, random_batch):
    """With the encoder's ears closed, nothing teaches the step embedding."""
    config = tiny_config(pretrain={"objective": "embeddings"})
    model, batch = pretraining(config), random_batch(4, 2 * L, L)
    model.encoder.forward = lambda latents, steps: latents + 0 * steps.detach().mean()
    pretraining_objective(config)(model(batch), batch).loss.backward()
    assert model.embed.table.weight.grad is None
    assert model.reconstruction.queries.grad.abs().sum() > 0


def test_a_collapse_stops_the_run(tiny_config, toy_histories, tmp_path, monkeypatch):
    build = EncoderPretraining.__init__

    def dead(self, *arguments):
        build(self, *arguments)
        # A last norm whose gain stays zero gives the same latents for every history.
        self.encoder.output_norm.weight.data.zero_()
        self.encoder.output_norm.weight.requires_grad_(False)

    monkeypatch.setattr(EncoderPretraining, "__init__", dead)
    config = tiny_config(pretrain=SHORT | {"collapse_variance": 1e-3, "collapse_after": 0.5})
    with pytest.raises(CadError, match=r"collapsed: after 10 of 20 .* latents vary by .*between histories"):
        pretrain(config, toy_histories, tmp_path)
    last = read_metrics(tmp_path / "metrics.jsonl")[-1]
    assert last["step"] == 10 and last["latent_variance"] < 1e-3 < last["target_variance"]


def test_variances_are_those_between_histories_and_between_steps(tiny_config, random_batch):
    config = tiny_config(pretrain=SHORT | {"collapse_variance": 0.1})
    objective, batch = pretraining_objective(config), random_batch(4, 2 * L, L)
    actual = pretraining(config)(batch)
    by_history = torch.arange(4.0)[:, None, None, None] * torch.ones(actual.latents.shape)
    by_step = torch.arange(4.0 * 2 * L).view(4, 2 * L, 1) * torch.ones(actual.embedded.shape)
    made = actual._replace(latents=by_history, embedded=by_step)
    values = objective.values(objective(made, batch).columns.tolist())
    assert values["latent_variance"] == values["latent_variance_depth_2"] == pytest.approx(1.25)
    assert values["target_variance"] == pytest.approx((64**2 - 1) / 12)
    objective.watch(values, 20)
    with pytest.raises(CadError, match=r"step embeddings vary by 0\.05 between steps"):
        objective.watch(values | {"target_variance": 0.05}, 20)
    objective.watch(values | {"target_variance": 0.05}, 5)  # too early to tell


def test_pretraining_diverges_with_advice_of_its_own(tiny_config, toy_histories, tmp_path):
    config = tiny_config(pretrain=SHORT | {"learning_rate": 1e9})
    with pytest.raises(CadError, match=r"diverged.*lower pretrain\.learning_rate"):
        pretrain(config, toy_histories, tmp_path)


def test_the_auxiliary_loss_is_added(tiny_config, random_batch):
    config = tiny_config(train={"reconstruction_weight": 0.5})
    learner, batch = WithReconstruction(build_model(config), config.pretrain), random_batch(4, 3 * L, L)
    output = learner(batch)
    actions, both = (
        ActionObjective(config.train, 3, 5)(output[0], batch),
        training_objective(config)(output, batch),
    )
    losses, _ = reconstruction_loss(config)(output[1], batch)
    torch.testing.assert_close(both.loss, actions.loss + 0.5 * (losses[0] + 2 * losses[1]) / 3)
    values = training_objective(config).values(both.columns.tolist())
    assert values["loss"] == pytest.approx(actions.loss.item())
    assert values["reconstruction_loss"] == pytest.approx(((losses[0] + 2 * losses[1]) / 3).item())
    assert "reconstruction_accuracy_row" in values


def test_an_auxiliary_run_trains_both_and_resumes(tiny_config, toy_histories, tmp_path):
    config = tiny_config(train={"reconstruction_weight": 0.5})
    for folder, stops in (("whole", []), ("stopped", [12])):
        for at in [*stops, -1]:
            try:
                fit(build_training(config, toy_histories), tmp_path / folder, at)
            except InterruptedRun:
                assert at == 12
    first, *_, last = read_metrics(tmp_path / "whole" / "metrics.jsonl")[1:]
    assert last["reconstruction_loss"] < first["reconstruction_loss"]
    assert last["loss"] < first["loss"]
    states = [
        safetensors.torch.load_file(tmp_path / f / "checkpoints" / "00000020" / "state.safetensors")
        for f in ("whole", "stopped")
    ]
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())
