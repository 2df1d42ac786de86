"""Weights from elsewhere: what is taken over, what is frozen, and what does not fit is named."""

from __future__ import annotations

import pytest
import safetensors.torch
import torch

from cad.envs.registry import task_family
from cad.errors import CadError, UsageError
from cad.interrupt import StopFlag
from cad.models.compressed_ad.reconstruction import EncoderPretraining
from cad.models.compressed_ad.transfer import ENCODER_WEIGHTS
from cad.schema import stored_config
from cad.training.learner import build_model, build_training
from cad.training.transfer import load_decoder, load_encoder, read_weights, save_weights

KEY = "train.pretrained_encoder_path"


@pytest.fixture
def encoder(tiny_config, tmp_path):
    """A pre-training's file and its module."""
    torch.manual_seed(7)
    module = EncoderPretraining(
        tiny_config().model, tiny_config().pretrain, task_family(tiny_config().env).spaces
    )
    save_weights(tmp_path / "encoder.safetensors", tiny_config(), module, ENCODER_WEIGHTS)
    return tmp_path / "encoder.safetensors", module


def fresh(config):
    torch.manual_seed(1)
    return build_model(config)


def test_the_same_weights_give_the_same_bytes_and_any_change_is_noticed(tiny_config, tmp_path):
    path, model = tmp_path / "model.safetensors", build_model(tiny_config())
    written = set()
    for _ in range(5):
        save_weights(path, tiny_config(), model, stage="train-0123456789ab")
        written.add(path.read_bytes())
    (data,) = written
    stored = read_weights(path, "key", "train-0123456789ab")
    assert all(torch.equal(tensor, stored.tensors[name]) for name, tensor in model.state_dict().items())
    with pytest.raises(CadError, match=r"it is that of train-0123456789ab, not of train-ba9876543210"):
        read_weights(path, "key", "train-ba9876543210")
    for place in (0, 20, 200, len(data) // 2, -1):
        altered = bytearray(data)
        altered[place] ^= 1
        path.write_bytes(altered)
        with pytest.raises(CadError, match=r"key: .*model\.safetensors is damaged \(.*\); get another copy"):
            read_weights(path, "key")


def test_the_encoder_and_what_feeds_it_are_taken_over(encoder, tiny_config):
    path, module = encoder
    config = tiny_config(model={"n_layer": 1})  # the decoder is its own
    model, untouched = fresh(config), fresh(config)
    load_encoder(model, config, path, KEY)
    theirs = module.state_dict()
    for name, tensor in model.state_dict().items():
        expected = untouched.state_dict() if name.startswith("decoder.") else theirs
        assert torch.equal(tensor, expected[name]), name
    assert not any(name.startswith("reconstruction") for name in read_weights(path, KEY).tensors)


def test_a_trained_model_is_a_source_too(tiny_config, tmp_path):
    trained = fresh(tiny_config())
    save_weights(tmp_path / "model.safetensors", tiny_config(), trained)
    torch.manual_seed(2)
    model = build_model(tiny_config())
    load_encoder(model, tiny_config(), tmp_path / "model.safetensors", KEY)
    assert torch.equal(model.encoder.queries, trained.encoder.queries)
    assert not torch.equal(model.decoder.head.weight, trained.decoder.head.weight)


def test_every_setting_that_differs_is_named(encoder, tiny_config):
    model = {"n_latent": 5, "encoder_n_layer": 1, "n_inner": 8}
    config = tiny_config(model=model, env={"size": 6, "horizon": 6})
    with pytest.raises(CadError) as caught:
        load_encoder(build_model(config), config, encoder[0], KEY)
    for words in (
        KEY, str(encoder[0]), "model.n_latent is 3 there and 5 here", "model.encoder_n_layer is 2 there",
        "model.n_inner is 64 there and 8", "env.size is 5 there and 6",
    ):  # fmt: skip
        assert words in str(caught.value)
    assert "n_embd" not in str(caught.value)


@pytest.mark.parametrize(
    ("there", "here"), [({"latent_update": "gated"}, {}), ({}, {"latent_update": "gated"})]
)
def test_an_encoder_of_other_latents_is_refused(there, here, tiny_config, tmp_path):
    """Without its gate an encoder would make other latents, and nothing would say so."""
    source, config = tiny_config(model=there), tiny_config(model=here)
    save_weights(tmp_path / "model.safetensors", source, build_model(source))
    with pytest.raises(CadError, match=r"model.safetensors: model.latent_update is .* there, .* here"):
        load_encoder(build_model(config), config, tmp_path / "model.safetensors", KEY)
    same = tiny_config(model={**there, **here})
    save_weights(tmp_path / "model.safetensors", same, build_model(same))
    load_encoder(build_model(same), same, tmp_path / "model.safetensors", KEY)


def test_every_tensor_that_does_not_fit_is_named(encoder, tiny_config):
    path, module = encoder
    module.encoder.queries = torch.nn.Parameter(torch.zeros(2, 16))
    del module.embed.norm
    save_weights(path, tiny_config(), module, ENCODER_WEIGHTS)
    before = fresh(tiny_config())
    model = fresh(tiny_config())
    with pytest.raises(CadError, match=r"embed\.norm\.weight is missing") as caught:
        load_encoder(model, tiny_config(), path, KEY)
    assert "encoder.queries is (2, 16), here (3, 16)" in str(caught.value)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), before.parameters(), strict=True))


@pytest.mark.parametrize("load", [load_encoder, load_decoder])
def test_files_that_are_none_of_ours(load, tiny_config, tmp_path):
    config = tiny_config()
    path = tmp_path / "x.safetensors"
    with pytest.raises(CadError, match=r"x\.safetensors is missing"):
        load(build_model(config), config, path, KEY)
    path.write_bytes(b"no weights")
    with pytest.raises(CadError, match="cannot be read as safetensors"):
        load(build_model(config), config, path, KEY)
    path.write_bytes(safetensors.torch.save({"a": torch.zeros(1)}))
    with pytest.raises(CadError, match="carries no config"):
        load(build_model(config), config, path, KEY)
    kind = "ad" if load is load_encoder else "compressed_ad"
    save_weights(path, tiny_config(kind), build_model(tiny_config(kind)))
    with pytest.raises(CadError, match=f"of kind {kind}"):
        load(build_model(config), config, path, KEY)


@pytest.mark.parametrize("load", [load_encoder, load_decoder])
def test_weights_that_saw_held_out_tasks_are_refused(load, tiny_config, tmp_path):
    path = tmp_path / "x.safetensors"
    other = tiny_config("compressed_ad" if load is load_encoder else "ad", env={"split_seed": 1})
    save_weights(path, other, build_model(other))
    with pytest.raises(CadError, match=r"held out or for validation here .*split_seed is 1 there and 0 here"):
        load(build_model(tiny_config()), tiny_config(), path, KEY)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("frozen", [True, False])
def test_a_frozen_encoder_stays_as_it_is(frozen, optimizer, encoder, tiny_config, toy_histories, tmp_path):
    config = tiny_config(train={"optimizer": optimizer, "weight_decay": 0.1})
    learner = build_training(config, toy_histories)
    model = learner.model
    load_encoder(model, config, encoder[0], KEY)
    if frozen:
        config.spec.freeze_encoder(model)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    learner.fit(tmp_path / "r", run_id="r", device=torch.device("cpu"), stop=StopFlag())
    moved = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert moved == {name for name in before if not frozen or name.startswith("decoder.")}


@pytest.mark.parametrize("window", [8, 12])
def test_a_warm_start_decodes_as_ad_does(window, tiny_config, loud_model, random_batch, tmp_path):
    """AD's decoder and embedding arrive; its positions are those of the steps behind the latents."""
    config, ad_config = tiny_config(), tiny_config("ad", model={"n_transit": window})
    ad, model = loud_model(ad_config), fresh(config).eval()
    save_weights(tmp_path / "ad.safetensors", ad_config, ad)
    load_decoder(model, config, tmp_path / "ad.safetensors", "train.init_from_ad")
    batch = random_batch(4, 8, 8)
    with torch.no_grad():
        model.decoder.positions[: config.model.n_latent] = 0
        x = model.decoder.input_norm(model.embed(batch.steps) + model.decoder.positions[3:])
        alone = model.decoder._logits(model.decoder.blocks(x, model.decoder.mask[3:, 3:], 8))
        torch.testing.assert_close(alone, ad(batch)[:, 0])
    assert torch.equal(model.encoder.queries, fresh(config).encoder.queries)


def test_a_warm_start_that_does_not_fit_names_what_differs(tiny_config, tmp_path):
    path = tmp_path / "ad.safetensors"
    for settings, words in (
        ({"n_layer": 1}, "model.n_layer is 1 there and 2 here"),
        ({"n_transit": 6}, "model.n_transit is 6 there, less than the 8 here"),
    ):
        other = tiny_config("ad", model=settings)
        save_weights(path, other, build_model(other))
        with pytest.raises(CadError, match=words):
            load_decoder(build_model(tiny_config()), tiny_config(), path, "train.init_from_ad")


def test_settings_that_are_no_more_are_left_out_where_they_changed_nothing(tiny_config):
    config = tiny_config("compressed_ad")
    stored = config.model_dump(mode="json")
    stored["model"] |= {"latent_groups": None, "kept_steps": 0}
    stored["evaluation"] |= {"compress_at": "full", "surprise_threshold": 1.0}
    assert stored_config(stored, "file") == config
    stored["model"]["kept_steps"] = 2
    with pytest.raises(UsageError, match=r"model.kept_steps: unknown key"):
        stored_config(stored, "file")
