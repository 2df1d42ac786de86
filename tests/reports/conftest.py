"""Made-up results in the shape of the quickstart's: 5 cells x 8 goals x 8 roll-outs x 50 episodes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from cad.reports import CellResult, Provenance, SourceCurve, StageRecord, TrainingPart
from cad.schema import Config

GOALS = ((4, 2), (5, 6), (6, 8), (7, 2), (3, 6), (0, 5), (5, 8), (5, 4))
TASK_IDS = tuple(9 * row + column for row, column in GOALS)
OPTIMAL = tuple(float(21 - max(1, abs(row - 4) + abs(column - 4))) for row, column in GOALS)


def config(kind: str, window: int, depth: int = 3, n_latent: int = 16, seed: int = 0) -> Config:
    latents = {"max_compression_depth": depth, "n_latent": n_latent} if kind != "ad" else {}
    return Config.model_validate(
        {
            "seed": seed,
            "model": {"kind": kind, "n_transit": window, **latents},
        }
    )


def returns(level: float, seed: int, shape: tuple[int, int, int] = (8, 8, 50)) -> np.ndarray:
    """Whole returns that rise towards ``level`` x optimum, faster on easier goals."""
    rng = np.random.default_rng(seed)
    optimal = np.array(OPTIMAL)[: shape[0], None, None]
    ease = (optimal / 20) ** 2
    rise = 1 - np.exp(-np.arange(shape[2]) * 0.14 * ease)
    mean = np.clip((level - 0.25 * (1 - ease)) * rise + 0.015, 0, 1)
    return rng.binomial(optimal.astype(int), np.broadcast_to(mean, shape)).astype(np.float64)


def metrics(level: float, n_depths: int) -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = []
    for step in range(25, 1501, 25):
        fall = np.exp(-step / 300)
        line: dict[str, Any] = {"step": step, "loss": 1.7 - level * (1 - fall), "learning_rate": 1e-3}
        line["accuracy"] = 0.2 + 0.62 * level * (1 - fall)
        line["gradient_norm"] = 0.2 + fall
        for depth in range(n_depths):
            line[f"loss_depth_{depth}"] = line["loss"] + 0.05 * depth * (1 + fall)
            line[f"accuracy_depth_{depth}"] = line["accuracy"] - 0.03 * depth
        if step % 500 == 0:
            line["validation_return"] = 16 * level * (1 - fall)
        lines.append(line)
    return lines


def make_cell(
    level: float = 0.9, *, kind: str = "compressed_ad", window: int = 40, depth: int = 3, n_latent: int = 16,
    seed: int = 0, shape: tuple[int, int, int] = (8, 8, 50), **changes: Any,
) -> CellResult:  # fmt: skip
    compressed = kind == "compressed_ad"
    values: dict[str, Any] = {
        "label": f"CompressedAD, depth {depth}, {n_latent} latents" if compressed else f"AD, window {window}",
        "arm": "CompressedAD" if compressed else "AD",
        "config": config(kind, window, depth, n_latent, seed),
        "status": "done",
        "returns": returns(level, 1000 * seed + 10 * depth + n_latent + window, shape),
        "compressions": np.full(shape[:2], 25 if compressed else 0),
        "task_ids": TASK_IDS[: shape[0]],
        "goals": GOALS[: shape[0]],
        "optimal": OPTIMAL[: shape[0]],
        "state_bytes": 2 * 4 * 64 * 4 * (window + (n_latent if compressed else 0)),
        "n_parameters": 310_000 if compressed else 208_000,
        "train_seconds": 260.0 + 35 * depth + n_latent if compressed else 201.5,
        "parts": (TrainingPart("training", 260.0 + 35 * depth + n_latent, 1500, 3_840_000, 1),),
        "evaluation_seconds": 9.5,
        "evaluation_steps_per_second": 7100.0 - 20 * n_latent if compressed else 5200.0,
        "metrics": metrics(level, depth + 1 if compressed else 1),
    }
    return CellResult(**(values | changes))


def quickstart_cells() -> list[CellResult]:
    return [
        make_cell(0.72, kind="ad", window=80),
        make_cell(0.78, depth=1, n_latent=4),
        make_cell(0.86, depth=1, n_latent=16),
        make_cell(0.84, depth=3, n_latent=4),
        make_cell(0.97, depth=3, n_latent=16),
    ]


def source_curve() -> SourceCurve:
    rise = 1 - np.exp(-np.arange(50) * 0.12)
    return SourceCurve(TASK_IDS, np.array(OPTIMAL)[:, None] * 0.97 * rise)


def provenance() -> Provenance:
    return Provenance(
        code_version="0.1.0 (commit 0123abc)",
        dirty=True,
        packages={"torch": "2.13.0", "numpy": "2.4.6"},
        hardware="2 CPU cores, 8 GiB",
        commands=["make quickstart", "cad report quickstart"],
        protocol="73 goals are trained on and 8 held out (split seed 0); the last checkpoint is evaluated.",
        inputs={"histories": "0" * 64},
        stages=(
            StageRecord(
                "histories-0a",
                "histories",
                "done",
                180.0,
                2,
                1,
                "0.1.0+0123abc",
                True,
                job_id="7_0",
                cpu_seconds=270.0,
            ),
            StageRecord(
                "train-0b",
                "train",
                "done",
                360.0,
                1,
                3,
                "0.1.0+0123abc",
                False,
                hardware="a, 2 cores",
                peak_memory_bytes=3 * 2**29,
            ),
            StageRecord("train-0c", "train", "failed"),
            StageRecord("evaluate-0d", "evaluate", "missing"),
        ),
    )


@pytest.fixture(scope="session", name="make_cell")
def _make_cell() -> Callable[..., CellResult]:
    return make_cell


@pytest.fixture
def cell() -> Callable[..., CellResult]:
    return make_cell


@pytest.fixture
def quickstart() -> list[CellResult]:
    return quickstart_cells()


@pytest.fixture(scope="session")
def source() -> SourceCurve:
    return source_curve()


@pytest.fixture(scope="session")
def origin() -> Provenance:
    return provenance()
