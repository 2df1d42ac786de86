"""Small configs, made-up histories and models for the unit tests."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from xdist.scheduler import LoadScopeScheduling

from cad.histories.batch import Batch, Steps
from cad.histories.sampler import HistoryArrays
from cad.models.network import SequenceModel
from cad.models.registry import MODELS
from cad.schema import Config
from cad.training.learner import build_model

SIZE, HORIZON, STEPS, N_ACTIONS = 5, 5, 60, 5

torch.set_num_threads(1)


def _lacks(capability: int) -> bool:
    """Whether this process is root without one of root's capabilities, as in some virtual machines."""
    status = dict(line.split(":\t", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return os.geteuid() == 0 and not int(status["CapPrm"], 16) >> capability & 1


if _lacks(24):  # CAP_SYS_RESOURCE, which Apptainer asks for
    os.environ.setdefault("APPTAINER_DROP_CAPS", "CAP_SYS_RESOURCE")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as for what a script starts in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)

# They begin first, so that none of them is left alone at the end.
LONG_FILES = (
    "cluster/test_time_limit.py",
    "cluster/test_accounting.py",
    "cluster/test_disturbed.py",
    "cluster/test_ranks.py",
    "cluster/test_commands.py",
    "cluster/test_site.py",
    "training/engines/test_engines.py",
    "experiments/test_nothing_changed.py",
    "experiments/run/test_learns.py",
    "experiments/run/test_run_stopped.py",
    "experiments/run/test_local_launcher.py",
    "experiments/run/test_bad_input.py",
    "experiments/run/test_run.py",
    "experiments/run/test_pretrain.py",
    "experiments/reporting/test_report_commands.py",
    "training/engines/test_rendezvous.py",
    "test_benchmarks.py",
)
# Tests that one of pytest's workers runs, beside those of one file: a cluster each.
GROUPS = {
    "cluster/test_time_limit.py": "cluster with accounting",
    "cluster/test_accounting.py": "cluster with accounting",
    "cluster/": "cluster",
}
# `make test-fast` leaves these out: whole experiments, pages, several processes, trainings that learn.
SLOW = (
    *LONG_FILES,
    "api/",
    "cluster/",
    "experiments/",
    "reports/browser/",
    "reports/output/",
    "reports/questions/",
    "training/test_captured.py",
    "training/test_compile.py",
    "training/test_deep_unrolling.py",
    "training/test_loop.py",
    "training/test_pack.py",
    "training/test_reconstruction.py",
    "training/test_trackers.py",
    "training/test_transfer.py::test_a_frozen",
    "histories/test_audit.py",
    "histories/test_collect.py",
    "histories/test_imported.py",
    "histories/test_sb3_sources.py",
    "cli/",
    "cluster_unit/test_image.py",
    "envs/test_cued_darkroom.py::test_a_history",
    "envs/test_cued_darkroom.py::test_the_learner",
    "envs/test_examples.py::test_an_example_runs",
    "envs/test_families.py::test_sources_improve",
    "envs/test_gymnasium_tasks.py::test_doctor",
    "envs/test_gymnasium_tasks.py::test_it_is_collected",
    "envs/test_outside_families.py::test_ours_keep",
    "envs/test_outside_families.py::test_the_template_trains",
    "evaluation/probes/test_attention.py",
    "evaluation/test_results.py::test_a_disk",
    "evaluation/test_varying_episodes.py::test_it_trains",
    "evaluation/test_varying_episodes.py::test_ppo",
    "models/test_memory.py::test_memory_does_not_grow",
    "models/test_memory.py::test_state_bytes_of_5_and_50",
    "models/test_recurrent.py::test_long_histories",
    "models/test_region_memory.py",
    "reports/data/test_chosen_rollouts.py",
    "reports/data/test_statistics.py::test_iqm_interval_covers",
    "reports/plotting/test_print_export.py",
    "reports/plotting/test_rollout_drawing.py",
    "test_doctor.py",
    "test_fuzz.py",
    "test_wheel.py",
)


# Left to `make test-exhaustive`, to be run before a merge: combinations and sizes, of which `make
# test` has one each.
EXHAUSTIVE = (
    "cluster/test_accounting.py",
    "cluster/test_commands.py::test_a_thousand_cells",
    "cluster/test_disturbed.py::test_grid_with_every_disturbance",
    "cluster/test_packs.py",
    "cluster/test_ranks.py",
    "experiments/run/test_learns.py::test_learns_in_context[noise_distillation]",
    "envs/test_examples.py::test_an_example_runs",
    "experiments/run/test_learns.py::test_region_ad",
    "experiments/run/test_local_launcher.py::test_two_ranks",
    "experiments/run/test_side_by_side.py::test_one_that_is_cancelled_while_others_run",
    "experiments/test_documented_commands.py::test_documented_commands_run",
    "experiments/test_nothing_changed.py::test_every_kind_and_way_of_training_gives_the_recorded_numbers",
    "test_benchmarks.py",
    "test_wheel.py",
    "training/engines/test_engines.py",
    "training/test_pack.py::test_over_200_updates",
    "training/test_pack.py::test_ways_of_training[reconstruction]",
    "training/test_pack.py::test_ways_of_training[curriculum]",
)

# Of these, CI runs what needs what other machines lack, and what nothing else there shows.
CI = (
    "cluster/",
    "experiments/run/test_local_launcher.py",
)


def _name(item: pytest.Item) -> str:
    return f"{item.path.relative_to(Path(__file__).parent).as_posix()}::{item.name}"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first, in the order above; slow and exhaustive tests, and those of CI, are marked."""
    ranks = {file: rank for rank, file in enumerate(LONG_FILES)}
    items.sort(key=lambda item: ranks.get(_name(item).partition("::")[0], len(ranks)))
    for item in items:
        if _name(item).startswith(SLOW):
            item.add_marker("slow")
        if _name(item).startswith(EXHAUSTIVE):
            item.add_marker("exhaustive")
        if _name(item).startswith(CI):
            item.add_marker("ci")


class _Together(LoadScopeScheduling):
    """Gives each of pytest's workers whole files, or groups of files."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        name = file.removeprefix("tests/")
        return next((group for start, group in GROUPS.items() if name.startswith(start)), file)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> _Together:
    """In place of pytest-xdist's own: what shares something is made once."""
    return _Together(config, log)


MakeConfig = Callable[..., Config]


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that pytest's workers share."""
    own = tmp_path_factory.getbasetemp()
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "shared"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def one_at_a_time(shared: Path) -> Callable[[str], AbstractContextManager[None]]:
    """``with one_at_a_time(name):`` a block that one of pytest's workers is in at a time."""

    @contextlib.contextmanager
    def lock(name: str) -> Iterator[None]:
        with (shared / f"{name}.lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    return lock


@pytest.fixture(scope="session")
def tiny_config() -> MakeConfig:
    """``tiny_config(kind, seed=0, env={}, model={}, train={}, ...)``: a cell that trains in a second."""

    def make(kind: str = "compressed_ad", seed: int = 0, **sections: dict[str, Any]) -> Config:
        base: dict[str, dict[str, Any]] = {
            "env": {"size": SIZE, "horizon": HORIZON, "n_validation": 2},
            "source": {"steps_per_stream": STEPS},
            "model": {
                "kind": kind,
                "n_embd": 16,
                "n_layer": 2,
            },
            "train": {
                "n_updates": 20,
                "batch_size": 8,
                "learning_rate": 1e-2,
                "num_warmup_steps": 2,
                "max_episode_gap": 3,
                "log_every": 5,
                "checkpoint_every": 10,
                "validate_every": 0,
            },
        }
        fields = MODELS[kind].config_class.model_fields
        shared = {"n_transit": 8, "n_unroll": 8, "n_head": 2}
        base["model"].update({key: value for key, value in shared.items() if key in fields})
        if kind in ("compressed_ad", "region_ad"):
            base["model"].update(n_latent=3, encoder_n_layer=2, max_compression_depth=2)
        if kind == "region_ad":
            base["source"].update(n_steps=8, batch_size=100)
            base["model"].update(compress_interval=8, n_transit=24)
        for name, values in sections.items():
            base.setdefault(name, {}).update(values)
        return Config.model_validate({"seed": seed, **base})

    return make


@pytest.fixture(scope="session")
def toy_histories() -> HistoryArrays:
    """Random walks whose action is the row that the agent stands in: learnable from one step."""
    rng = np.random.default_rng(0)
    observations = rng.integers(0, SIZE, (3, 4, STEPS, 2), dtype=np.uint8)
    rewards = rng.integers(0, 2, (3, 4, STEPS), dtype=np.uint8)
    return HistoryArrays(observations, observations[..., 0] % N_ACTIONS, rewards, HORIZON, N_ACTIONS)


@pytest.fixture(scope="session")
def loud_model() -> Callable[[Config], SequenceModel]:
    """Models with weights far above the initial ones, so that every input shows in the logits."""

    def make(config: Config) -> SequenceModel:
        torch.manual_seed(0)
        model = build_model(config)
        for name, parameter in model.named_parameters():
            torch.nn.init.normal_(parameter, mean=float(name.endswith("norm.weight")), std=0.3)
        return model.eval()

    return make


@pytest.fixture(scope="session")
def random_batch() -> Callable[..., Batch]:
    """``random_batch(B, T, segment_length=T, burn_in=0)`` of a grid of ``SIZE``."""

    def make(B: int, T: int, segment_length: int | None = None, burn_in: int = 0, seed: int = 0) -> Batch:
        rng = torch.Generator().manual_seed(seed)

        def draw(high: int, *shape: int) -> torch.Tensor:
            return torch.randint(high, (B, T, *shape), generator=rng)

        steps = Steps(draw(SIZE, 2), draw(N_ACTIONS + 1), draw(2), draw(2))
        return Batch(steps, draw(N_ACTIONS), segment_length or T, burn_in)

    return make
