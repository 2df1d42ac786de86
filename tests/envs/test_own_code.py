"""The code of the user's behind a config: where it lies, what counts as it, and when it has changed."""

from __future__ import annotations

from pathlib import Path

import pytest

from cad.envs.config import EnvConfig
from cad.envs.own_code import code_checksums, code_folder, code_folders
from cad.envs.registry import env_config


def gymnasium_env(id: str) -> EnvConfig:
    return env_config(
        {
            "name": "gymnasium",
            "id": id,
            "horizon": 5,
            "tasks": [{"seed": 0}, {"seed": 1}],
            "n_heldout": 1,
            "n_validation": 0,
        }
    )


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "own_vault.py").write_text("import json\nimport own_rules\nfrom own_maps import small\n")
    (tmp_path / "own_rules.py").write_text("SIZE = 4\n")
    (tmp_path / "own_maps").mkdir()
    (tmp_path / "own_maps/__init__.py").write_text("small = 1\n")
    (tmp_path / "own_other.py").write_text("unused = 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def test_the_folder_of_a_module_is_where_it_is_imported_from(folder):
    assert code_folder("own_vault") == code_folder("own_maps.more") == folder
    assert code_folders(gymnasium_env("own_vault:Vault-v0")) == (folder,)


def test_what_is_installed_ours_or_missing_has_none():
    for module in ("numpy", "json", "sys", "cad.envs.families.darkroom", "no_such_module_here"):
        assert code_folder(module) is None
    for id in ("FrozenLake-v1", "numpy:No-v0"):
        assert code_checksums(gymnasium_env(id)) == {} and code_folders(gymnasium_env(id)) == ()
    assert code_checksums(env_config({"name": "darkroom"})) == {}


@pytest.mark.parametrize(
    ("file", "counts"),
    [("own_vault.py", True), ("own_rules.py", True), ("own_maps/__init__.py", True), ("own_other.py", False)],
)
def test_a_module_and_what_it_imports_from_its_folder_count(folder, file, counts):
    env = gymnasium_env("own_vault:Vault-v0")
    before = code_checksums(env)
    assert list(before) == ["own_vault"] and before == code_checksums(env)
    with (folder / file).open("a") as text:
        text.write("# changed\n")
    assert (code_checksums(env) != before) == counts


def test_code_that_cannot_be_parsed_has_a_checksum_too(folder):
    (folder / "own_rules.py").write_text("def")
    assert code_checksums(gymnasium_env("own_vault:Vault-v0"))


def test_a_folder_that_is_named_like_a_module_is_none(folder):
    before = code_checksums(gymnasium_env("own_vault:Vault-v0"))
    (folder / "own_maps" / "small.py").mkdir()
    assert code_checksums(gymnasium_env("own_vault:Vault-v0")) == before
