"""Every preset loads, sets only its section, says what it is for, and combines with the others."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import yaml

from cad.config import Config, load

CONFIGS = Path(__file__).parents[2] / "configs"
PRESETS = sorted(CONFIGS.rglob("*.yaml"))
ENVS, MODELS = sorted((CONFIGS / "env").glob("*.yaml")), sorted((CONFIGS / "model").glob("*.yaml"))


def test_the_presets_are_there() -> None:
    found = {str(path.relative_to(CONFIGS).with_suffix("")) for path in PRESETS}
    assert found >= {
        "env/darkroom",
        "env/darkroom_permuted",
        "env/dark_key_to_door",
        "source/ppo",
        "model/ad",
        "model/compressed_ad",
        "model/region_ad",
        "train/quick",
    }


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_preset_loads_and_sets_only_its_section(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.startswith("# ")
    assert set(yaml.safe_load(text)) == {path.parent.name}
    loaded = load(Config, [path], [])
    own = [key for key, origin in loaded.origin.items() if origin != "default"]
    assert own and all(key.startswith(f"{path.parent.name}.") for key in own)


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
