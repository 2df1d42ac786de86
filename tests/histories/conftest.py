"""One small, real collection that the tests of this folder share."""

from __future__ import annotations

from pathlib import Path

import pytest

from cad.config import PPOConfig
from cad.envs.config import EnvConfig
from cad.envs.registry import env_config
from cad.histories.collect import collect

ENV = env_config({"size": 3, "horizon": 6, "n_tasks": 4, "n_heldout": 1, "n_validation": 1, "split_seed": 1})
SOURCE = PPOConfig(
    n_streams=12,
    steps_per_stream=240,
    n_steps=20,
    batch_size=60,
    n_epochs=5,
    learning_rate=3e-3,
    ent_coef=0,
    gamma=0.9,
)


@pytest.fixture(scope="session")
def collected(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sound histories file of ENV and SOURCE; tests copy it before they change it."""
    path = tmp_path_factory.mktemp("histories") / "small.h5"
    collect(ENV, SOURCE, path, workers=1)
    return path


@pytest.fixture
def env() -> EnvConfig:
    return ENV


@pytest.fixture
def source() -> PPOConfig:
    return SOURCE
