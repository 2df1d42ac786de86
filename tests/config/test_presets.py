"""Every preset loads, sets only its section, says what it is for, and combines with the others."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import yaml

from cad.config import load
from cad.schema import Config

CONFIGS = Path(__file__).parents[2] / "configs"
PRESETS = sorted(CONFIGS.rglob("*.yaml"))
# Learners are those of a family.
ENV_OF = {
    "search": "cued_darkroom",
    "thompson": "bandit",
    "posterior_sampling": "random_mdp",
    "remember_cue": "t_maze",
    "explore": "frozen_lake",
}
ENVS, MODELS = sorted((CONFIGS / "env").glob("*.yaml")), sorted((CONFIGS / "model").glob("*.yaml"))


def test_the_presets_are_there() -> None:
    actual = {str(path.relative_to(CONFIGS).with_suffix("")) for path in PRESETS}
    assert actual >= {
        "env/darkroom",
        "env/darkroom_permuted",
        "env/dark_key_to_door",
        "env/bandit",
        "env/t_maze",
        "env/random_mdp",
        "env/frozen_lake",
        "source/noise_distillation",
        "source/ppo",
        "source/ppo_key_to_door",
        "source/ppo_permuted",
        "model/ad",
        "model/best_darkroom",
        "model/best_key_to_door",
        "model/best_permuted",
        "model/compressed_ad",
        "model/compressed_ad_60",
        "model/compressed_ad_large",
        "model/compressed_ad_quick",
        "model/gru",
        "model/linear_attention",
        "model/region_ad",
        "train/quick",
    }


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_preset_loads_and_sets_only_its_section(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.startswith("# ")
    # A published model is a size and the training that goes with it; a best one, how it is sampled from, too.
    more = {"train", "evaluation"} if path.stem.startswith("best_") else {"train"}
    sections = {path.parent.name} | (more if path.parent.name == "model" else set())
    assert path.parent.name in yaml.safe_load(text).keys() <= sections
    env = ENV_OF.get(path.stem)
    loaded = load(Config, [path], [] if env is None else [f"env.name={env}"])
    own = [key for key, origin in loaded.origin.items() if origin not in ("default", "override")]
    assert own and all(key.partition(".")[0] in sections for key in own)


@pytest.mark.parametrize(("env", "model"), list(itertools.product(ENVS, MODELS)), ids=lambda path: path.stem)
def test_presets_combine_by_include(env: Path, model: Path, tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    files = [env, CONFIGS / "source/ppo.yaml", model, CONFIGS / "train/quick.yaml"]
    own.write_text(yaml.safe_dump({"include": [str(file) for file in files]}), encoding="utf-8")
    value = load(Config, [own], []).value
    assert (value.env.name, value.model.kind) == (
        env.stem,
        yaml.safe_load(model.read_text())["model"]["kind"],
    )


def test_published_sizes_are_what_they_are_said_to_be() -> None:
    def numbers(name: str) -> tuple[object, ...]:
        value = load(Config, [CONFIGS / "model" / f"{name}.yaml"], []).value
        model, train = value.model, value.train
        return (
            (model.n_embd, model.n_layer, model.n_head, model.n_inner, model.encoder_n_layer, model.n_latent),
            (model.max_compression_depth, model.n_transit),
            (model.compress_lengths, model.uncompressed_lengths),
            (
                train.batch_size,
                train.learning_rate,
                train.num_warmup_steps,
                train.label_smoothing,
                model.dropout,
            ),
        )

    assert numbers("compressed_ad") == (
        (64, 3, 4, None, 2, 20), (2, 40), ((20, 40), None), (256, 3e-4, 2000, 0.1, 0.2),
    )  # fmt: skip
    assert numbers("compressed_ad_large") == (
        (128, 4, 8, 512, 3, 40), (3, 100), ((15, 60), (10, 100)), (256, 1e-4, 5000, 0.1, 0.2),
    )  # fmt: skip
    assert numbers("compressed_ad_60") == (
        (64, 3, 4, None, 2, 60), (3, 100), ((10, 50), (5, 30)), (256, 3e-4, 2000, 0.1, 0.2),
    )  # fmt: skip
    region = load(Config, [CONFIGS / "model/region_ad.yaml"], []).value
    assert (region.model.compress_interval, region.model.n_regions, region.model.on_compress) == (
        80,
        2,
        "drop",
    )
    assert region.model.n_transit == 328 == 4 * (region.source.n_steps + 2)
