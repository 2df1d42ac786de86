"""Paths such as ``configs/model/ad.yaml`` name the package's presets where there is no such file."""

from __future__ import annotations

from pathlib import Path

import pytest

from cad.config import load
from cad.config.presets import PRESETS
from cad.errors import UsageError
from cad.schema import Config

REPOSITORY = Path(__file__).parents[2]


def test_the_checkout_has_the_presets_once():
    assert (REPOSITORY / "configs").resolve() == PRESETS


def test_presets_are_there_without_a_checkout(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    value = load(Config, [Path("configs/model/region_ad.yaml")], []).value
    assert value.model.kind == "region_ad"
    (tmp_path / "experiments").mkdir()
    file = tmp_path / "experiments" / "mine.yaml"
    file.write_text("include: [../configs/env/darkroom_permuted.yaml]\n")
    assert load(Config, [file], []).value.env.name == "darkroom_permuted"


def test_a_users_own_file_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    own = tmp_path / "configs" / "model" / "ad.yaml"
    own.parent.mkdir(parents=True)
    own.write_text("model: {n_embd: 12, n_head: 2}\n")
    assert load(Config, [Path("configs/model/ad.yaml")], []).value.model.n_embd == 12
    with pytest.raises(UsageError, match=r"configs/model/adx\.yaml: no such file; did you mean"):
        load(Config, [Path("configs/model/adx.yaml")], [])
