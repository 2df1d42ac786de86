"""What is shown can be saved and used; the documentation of keys is complete."""

from __future__ import annotations

import json
from pathlib import Path

import yaml

from cad.config import describe, flatten, json_schema, load, show
from cad.models.registry import MODELS
from cad.schema import Config, ExperimentConfig

EXPERIMENT = """\
name: e
description: "two lines\\nof text # with a hash, é, yes"
base: {model: {n_latent: 4}, train: {depth_weights: [1, 2, 3, 4], learning_rate: 1e-5}}
arms:
  - {name: a, set: {model.n_latent: 3, train.depth_weights: [1, 1, 1, 1]}}
  - name: "1e-3"
    grid: {model.n_latent: [1, 2], env.horizon: [null, 10]}
seeds: [0, 1]
report: {title: "on", question: "multi\\nline: [x"}
"""


def test_shown_config_loads_to_the_same(tmp_path: Path) -> None:
    path = tmp_path / "e.yaml"
    path.write_text(EXPERIMENT, encoding="utf-8")
    loaded = load(ExperimentConfig, [path], ["report.title=off", "seeds=[5]"])
    text = show(loaded)
    saved = tmp_path / "shown.yaml"
    saved.write_text(text, encoding="utf-8")
    again = load(ExperimentConfig, [saved], [])
    assert again.value == loaded.value
    assert "default" not in again.origin.values()  # every key is written


def test_shown_config_means_the_same_to_other_yaml_readers(tmp_path: Path) -> None:
    path = tmp_path / "e.yaml"
    path.write_text(EXPERIMENT, encoding="utf-8")
    loaded = load(ExperimentConfig, [path], ["report.title='yes'", "report.question='2026-01-01'"])
    assert yaml.safe_load(show(loaded)) == loaded.value.model_dump(mode="json")


def test_every_value_says_where_it_comes_from(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("model:\n  n_latent: 4\n", encoding="utf-8")
    lines = [line.split() for line in show(load(Config, [path], ["seed=3"])).splitlines()]
    assert ["n_latent:", "4", "#", "from", f"{path}:2"] in lines
    assert ["seed:", "3", "#", "from", "override"] in lines
    assert ["size:", "9", "#", "from", "default"] in lines


def test_every_key_is_described_with_its_default() -> None:
    rows = describe(Config)
    assert all(row.description and row.type != "any value" for row in rows)
    defaults = {(row.key, row.default) for row in rows}
    assert {(key, json.dumps(value)) for key, value in flatten(Config()).items()} <= defaults
    # Keys of other kinds too, each naming the kinds that have it.
    drop = next(row for row in rows if row.key == "model.drop_block")
    assert (drop.type, drop.default) == ("a whole number above 0, or null", "null")
    assert drop.description.startswith("ad")
    kind = next(row for row in rows if row.key == "model.kind")
    assert kind.type == f"one of {', '.join(MODELS)}"
    assert all(f"{name}: " in kind.description for name in MODELS)
    by_key = {row.key: row for row in describe(ExperimentConfig)}
    assert by_key["name"].default == "required"
    assert by_key["arms[].grid"].type == "a mapping of names to: a list"
    assert by_key["base.env.size"].type == "a whole number from 2 to 100"


def test_json_schema_knows_include() -> None:
    schema = json_schema(Config)
    assert set(flatten(Config())) >= {"seed"} and set(schema["properties"]) == {
        *Config.model_fields,
        "include",
    }
    assert "include" in schema["$defs"]["CompressedADConfig"]["properties"]
    assert schema["additionalProperties"] is False
    assert "include" not in Config.model_json_schema()["properties"]
