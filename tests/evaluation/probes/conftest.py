"""A cell and its model that probes are tried on."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="module")
def config(tiny_config):
    return tiny_config("compressed_ad", env={"n_heldout": 4}, evaluation={"n_episodes": 8, "n_rollouts": 2})


@pytest.fixture(scope="module")
def model(config, loud_model):
    return loud_model(config)
