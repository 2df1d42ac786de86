"""RegionAD: what its logits depend on, what it is taught, what its settings must be."""

from __future__ import annotations

import dataclasses

import pydantic
import pytest
import torch
from torch import Tensor

from cad.experiments.plan.cells import Cell
from cad.histories.batch import Batch
from cad.models.objective import ActionObjective
from cad.models.region_ad.network import END, START, TRANSITION, type_targets
from cad.models.region_ad.objective import token_type_loss
from cad.schema import Config
from cad.training.learner import training_objective

L = 8
LATENTS = {"on_compress": "latents"}


def movement(model, batch: Batch, t: int) -> tuple[Tensor, Tensor]:
    """How far action and type logits move when step ``t`` changes: (T,) and (windows, elements)."""
    steps = {}
    for name, values in dataclasses.asdict(batch.steps).items():
        other = values.clone()
        other[:, t] = (other[:, t] + 1) % 2
        steps[name] = other
    changed = dataclasses.replace(batch, steps=type(batch.steps)(**steps))
    with torch.no_grad():
        (a, types_a), (b, types_b) = model(changed), model(batch)
    moved = (types_a - types_b).abs().view(batch.actions.shape[0], -1, types_a.shape[1], 3)
    return (a - b).abs().amax(dim=(0, -1)).flatten(), moved.amax(dim=(0, -1))


@pytest.mark.parametrize("n_regions", [2, 3])
@pytest.mark.parametrize("t", [0, 3, 7, 8, 13, 15])
def test_every_action_sees_the_whole_window_before_it_and_no_future(
    t, n_regions, tiny_config, loud_model, random_batch
):
    model = loud_model(tiny_config("region_ad", model={"n_regions": n_regions, "n_transit": 12 * n_regions}))
    logits, types = movement(model, random_batch(4, n_regions * L, L), t)
    assert (logits[:t] < 1e-5).all()
    assert (logits[t:] > 1e-3).all()
    element = t // L * (L + 2) + 1 + t % L
    assert (types[0, :element] < 1e-5).all()
    assert (types[0, element:] > 1e-3).all()


@pytest.mark.parametrize("t", [0, 7, 8, 20, 24, 31])
def test_with_latents_actions_see_regions_that_are_long_gone(t, tiny_config, loud_model, random_batch):
    model = loud_model(tiny_config("region_ad", model=LATENTS))
    logits, types = movement(model, random_batch(4, 4 * L, L), t)
    assert (logits[:t] < 1e-5).all()
    assert (logits[t:] > 1e-3).all()
    assert types.shape == (3, 2 * (L + 2))


def test_a_region_is_decoded_behind_the_latents_of_all_but_the_one_before_it(
    tiny_config, loud_model, random_batch
):
    model, batch = loud_model(tiny_config("region_ad", model=LATENTS)), random_batch(4, 4 * L, L)
    model.encoder.forward = lambda latents, _steps: latents  # nothing gets through any more
    logits, _ = movement(model, batch, 3)
    assert (logits[3 : 2 * L] > 1e-3).all()  # its own region and the next one
    assert (logits[2 * L :] < 1e-5).all()


def test_gradients_reach_everything(tiny_config, loud_model, random_batch):
    model = loud_model(tiny_config("region_ad", model=LATENTS))
    logits, types = model(random_batch(4, 4 * L, L))
    (logits[:, -1].square().mean() + types.square().mean()).backward()
    names = {name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0}
    assert {name for name in names if "qkv.bias" not in name} == set()


def test_type_targets_are_the_next_elements_types(tiny_config):
    targets = type_targets(tiny_config("region_ad").model, 3, torch.device("cpu"))
    assert targets.tolist() == 2 * [*3 * [TRANSITION], END, START]


def test_token_type_loss_and_accuracies():
    targets = torch.tensor(2 * [TRANSITION, TRANSITION, END, START])
    logits = torch.zeros(5, 8, 3)
    logits[..., TRANSITION] = 2.0  # always the most frequent type
    loss, accuracy, end_accuracy = token_type_loss(logits, targets)
    log_p = torch.log_softmax(torch.tensor([2.0, 0, 0]), 0)
    torch.testing.assert_close(loss, -(log_p[TRANSITION] + log_p[1]) / 2)
    assert accuracy == 0.5
    assert end_accuracy == 0
    logits[:, 2, END] = 3.0
    assert token_type_loss(logits, targets)[2] == 0.5


def test_the_type_loss_is_added_and_both_accuracies_are_logged(tiny_config, loud_model, random_batch):
    config = tiny_config("region_ad", train={"token_type_weight": 0.25})
    assert Config().train.token_type_weight == 0.1
    batch = random_batch(4, 2 * L, L)
    with torch.no_grad():
        output = loud_model(config)(batch)
    both, actions = (
        training_objective(config)(output, batch),
        ActionObjective(config.train, 2, 5)(output[0], batch),
    )
    types = token_type_loss(output[1], type_targets(config.model, L, torch.device("cpu")))
    torch.testing.assert_close(both.loss, actions.loss + 0.25 * types[0])
    values = training_objective(config).values(both.columns.tolist())
    assert values["loss"] == pytest.approx(actions.loss.item())
    assert values["token_type_loss"] == pytest.approx(types[0].item())
    assert values["token_type_accuracy"] == pytest.approx(types[1].item())
    assert values["end_accuracy"] == pytest.approx(types[2].item())
    assert 0 <= values["accuracy"] <= 1


REFUSED = [
    ({"model": {"step_embedding": "cell"}}, "step_embedding and embedding_norm are switches of ad"),
    ({"model": {"embedding_norm": False}}, "step_embedding and embedding_norm are switches of ad"),
    ({"model": {"n_regions": 4, "compress_interval": 80, "n_transit": 327}}, "it takes 328"),
    ({"source": {"n_steps": 10}}, r"compress_interval=8 is not source.n_steps=10: .* set both alike"),
    ({"model": {"n_transit": 19}}, "n_transit=19 does not hold n_regions=2 .* it takes 20"),
    ({"model": {"n_regions": 3, "n_transit": 29}}, "it takes 30"),
    ({"model": {"n_regions": 5}}, "n_regions"),
    ({"model": {**LATENTS, "max_compression_depth": 0}}, "on_compress=latents needs max_compression_depth"),
    ({"model": {**LATENTS, "max_compression_depth": 6}}, "needs 64 steps .*source.steps_per_stream=60"),
]


@pytest.mark.parametrize(("settings", "message"), REFUSED, ids=str)
def test_settings_that_do_not_fit_are_refused(settings, message, tiny_config):
    with pytest.raises(pydantic.ValidationError, match=message):
        tiny_config("region_ad", **settings)


@pytest.mark.parametrize("kind", ["ad", "compressed_ad"])
def test_other_models_have_none_of_its_settings(kind, tiny_config):
    for name, value in {"n_regions": 3, "on_compress": "latents", "compress_interval": 7}.items():
        with pytest.raises(ValueError, match=rf"model\.{kind}\.{name}\n.*not permitted"):
            tiny_config(kind, model={name: value})
    with pytest.raises(ValueError, match=r"train\.token_type_weight is for model\.kind=region_ad"):
        tiny_config(kind, train={"token_type_weight": 0.5})


def training_name(config: Config) -> str:
    return Cell("", "", config).training.name


def test_settings_enter_a_trainings_identity_where_they_matter(tiny_config):
    plain = training_name(tiny_config("region_ad"))
    assert training_name(tiny_config("region_ad", model={"n_latent": 5})) == plain
    latents = training_name(tiny_config("region_ad", model=LATENTS))
    others = {
        training_name(tiny_config("region_ad", model={**LATENTS, "n_latent": 5})),
        training_name(tiny_config("region_ad", train={"token_type_weight": 0.5})),
        training_name(tiny_config("region_ad", model={"n_regions": 3, "n_transit": 30})),
    }
    assert len({plain, latents} | others) == 5
