"""``cad config``: every key with its meaning, and a schema for editors."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cad.cli.app import build


def cad(*words: str) -> str:
    done = CliRunner().invoke(build(), list(words), env={"COLUMNS": "400"}, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def test_show_prints_values_and_where_they_come_from() -> None:
    lines = cad("config", "show", "seed=7").splitlines()
    assert any(line.startswith("seed: 7") and "override" in line for line in lines)
    assert any(line.strip().startswith("gae_lambda: 0.95") and "default" in line for line in lines)


def test_show_keys_lists_every_key_with_type_default_and_meaning() -> None:
    text = " ".join(cad("config", "show", "--keys").split())
    assert "source.gae_lambda (a number from 0 to 1, default 0.95): ppo: GAE lambda." in text
    assert "arms[]" not in text
    of_experiments = " ".join(cad("config", "show", "--experiment", "--keys").split())
    assert "base.source.gae_lambda (a number from 0 to 1, default 0.95): ppo: GAE lambda." in of_experiments
    assert "arms[].name (text" in of_experiments


def test_an_experiment_is_told_from_a_config(tmp_path: Path) -> None:
    file = tmp_path / "e.yaml"
    file.write_text("name: e\narms: [{name: AD}]\n")
    assert "arms:" in cad("config", "show", str(file))
    done = CliRunner().invoke(build(), ["train", str(file)])
    assert str(done.exception) == (
        f"{file}: it is an experiment (it has arms), and this takes the settings of one cell, such as "
        f"configs/model/ad.yaml; 'cad run {file}' runs the experiment"
    )


@pytest.mark.parametrize(
    ("words", "keys"), [((), {"seed", "model"}), (("--experiment",), {"name", "base", "arms"})]
)
def test_schema_is_json_and_knows_include(words: tuple[str, ...], keys: set[str]) -> None:
    schema = json.loads(cad("config", "schema", *words))
    assert schema["$schema"].startswith("https://json-schema.org/")
    assert keys | {"include"} <= set(schema["properties"])
    assert schema["additionalProperties"] is False
