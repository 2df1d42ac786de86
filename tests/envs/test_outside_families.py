"""Task families of others: found by name, their settings checked, their promises tried out."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from cad.cli.app import build
from cad.config import NoiseDistillationConfig, load
from cad.envs.check import check_family
from cad.envs.family import Spaces
from cad.envs.registry import FAMILIES, FamilyRegistry, env_config, task_family
from cad.envs.split import split_tasks
from cad.errors import CadError, UsageError
from cad.evaluation.rollout import roll_out
from cad.histories.audit import require_sound
from cad.histories.collect import _work
from cad.histories.file import Provenance, open_histories, write_root, write_task
from cad.histories.sampler import read_arrays
from cad.histories.source import learn
from cad.interrupt import StopFlag
from cad.reports.data import stated_optimum
from cad.reports.data.measure import measure_of
from cad.schema import Config
from cad.training.learner import build_training

EXAMPLES = Path(__file__).parents[2] / "examples"
NAME = "ring:Ring"


@pytest.fixture
def ring(monkeypatch: pytest.MonkeyPatch) -> Iterator[type]:
    """The template's class, as a stranger's program finds it."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    yield FAMILIES[NAME]
    FAMILIES._loaded.pop(NAME, None)
    sys.modules.pop("ring", None)


def refused(*overrides: str) -> str:
    with pytest.raises(UsageError) as caught:
        load(Config, [], overrides)
    return str(caught.value)


@pytest.mark.usefixtures("ring")
def test_the_template_is_short_and_keeps_its_promises() -> None:
    assert len((EXAMPLES / "ring.py").read_text(encoding="utf-8").splitlines()) <= 40
    findings = list(check_family(load(Config, [], [f"env.name={NAME}", "env.n_places=9"]).value.env))
    assert [f.promise for f in findings] == [
        "spaces", "tasks", "split", "steps", "seed", "batch", "tables", "optimum",
    ]  # fmt: skip
    assert [f for f in findings if not f.kept] == []


def test_its_settings_are_checked_like_ours(ring: type) -> None:
    del ring
    text = refused(f"env.name={NAME}", "env.n_plaes=3", "env.n_places=many", "env.split_seed=-1")
    assert "env.n_plaes: unknown key; did you mean env.n_places?" in text
    assert 'override: env.n_places: expected a whole number, found "many"' in text
    assert "override: env.split_seed: expected a whole number at least 0, found -1" in text
    assert "n_heldout=20" in refused(f"env.name={NAME}", "env.n_heldout=20")
    # Another family's key is named as such.
    text = refused("env.n_places=3")
    assert "it is a key of env.name=" in text
    assert f"{NAME}, and env.name is darkroom" in text


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("no_such_module:X", "importing no_such_module fails (ModuleNotFoundError"),
        ("ring:Rung", "ring has no Rung"),
        ("ring:np", "it is no task family"),
        ("cad.envs.family:TaskFamily", "config_class is no subclass of cad.envs.config.EnvConfig"),
        (
            "broken:Half",
            "it does not define describe, goal, optimal_actions, optimal_return, spaces, start, transition",
        ),
        ("broken:Endless", "no DEFAULT_HORIZON"),
        ("typo:X", "importing typo fails (ZeroDivisionError: division by zero)"),
    ],
)
def test_what_cannot_be_used_is_said_with_its_key(
    name: str, words: str, ring: type, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    del ring
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "typo.py").write_text("1 / 0\n")
    (tmp_path / "broken.py").write_text(
        "from ring import Ring, RingConfig\nfrom cad.envs.family import TaskFamily\n"
        "from cad.envs.config import EnvConfig\n"
        "class Half(TaskFamily):\n    config_class = RingConfig\n"
        "class NoConfig(EnvConfig):\n    family_size = property(lambda self: 3)\n"
        "class Endless(Ring):\n    config_class = NoConfig\n"
    )
    (tmp_path / "a.yaml").write_text(f"env:\n  name: {name}\n")
    with pytest.raises(UsageError) as caught:
        load(Config, [tmp_path / "a.yaml"], [])
    assert str(caught.value).startswith(f"{tmp_path / 'a.yaml'}:2: env.name: {name}: ")
    assert words in str(caught.value)


def test_entry_points_of_installed_packages_are_found(
    ring: type, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = tmp_path / "rings-1.0.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: rings\nVersion: 1.0\n")
    (installed / "entry_points.txt").write_text(
        "[cad.task_families]\nring = ring:Ring\nlost = lost:Lost\ndarkroom = ring:Ring\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    registry = FamilyRegistry()
    assert registry["ring"] is ring
    assert list(registry)[-2:] == ["ring", "lost"]
    assert registry["darkroom"].__name__ == "Darkroom"  # ours
    assert "lost" not in registry.usable()
    monkeypatch.setattr(FAMILIES, "_offered", None)
    printed = CliRunner().invoke(build(), ["families"], env={"COLUMNS": "200"}).output
    monkeypatch.setattr(FAMILIES, "_offered", None)
    rows = {line.split("│")[1].strip(): line for line in printed.splitlines() if "│" in line}
    assert "Find the place of a ring that pays." in rows["ring"]
    assert "cannot be used: lost:Lost: importing lost fails" in rows["lost"]
    assert "Find an invisible goal in a dark room" in rows["darkroom"]


FAULTS = {
    "spaces": ("an agent chooses among 2 to 65536 actions", {}),
    "tasks": ("tasks 0 and 1 are one: both have the goal (0,)", {}),
    "split": ("are not every task in use once", {}),
    "steps": ("after step 0: a reward is 0.5", {}),
    "seed": ("give other observations or rewards the second time", {}),
    "batch": ("gives other observations or rewards alone than in a batch", {}),
    "optimum": ("optimal_actions() return 10, more than the optimum of 9", {}),
}


def spoil(ring: type, promise: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Break one promise of the template."""
    whole, rng = ring.transition, np.random.default_rng(0)

    def transition(self, goals, states, hidden, actions, noise=None):
        after, rewards, hidden = whole(self, goals, states, hidden, actions, noise)
        if promise == "steps":
            rewards = rewards + np.float32(0.5)
        if promise == "seed":
            after = (after + rng.integers(0, 2)) % self.config.n_places
        if promise == "batch":
            after = (after + len(after)) % self.config.n_places
        return after, rewards, hidden

    monkeypatch.setattr(ring, "transition", transition)
    if promise == "spaces":
        monkeypatch.setattr(ring, "spaces", property(lambda _: Spaces(("place",), (12,), 1, 2)))
    if promise == "tasks":
        goal = ring.goal
        monkeypatch.setattr(ring, "goal", lambda self, task: goal(self, task) and (0,))
    if promise == "split":
        monkeypatch.setattr(ring, "shuffled", lambda self, _: [*self.task_ids[1:], 1])
    if promise == "optimum":
        optimum = ring.optimal_return
        monkeypatch.setattr(ring, "optimal_return", lambda self, task: optimum(self, task) - 1)


@pytest.mark.parametrize("promise", FAULTS)
def test_each_broken_promise_is_found(promise: str, ring: type, monkeypatch: pytest.MonkeyPatch) -> None:
    words, settings = FAULTS[promise]
    spoil(ring, promise, monkeypatch)
    overrides = [f"env.name={NAME}", *(f"{key}={value}" for key, value in settings.items())]
    findings = list(check_family(load(Config, [], overrides).value.env))
    first = next(finding for finding in findings if not finding.kept)
    assert first.promise == promise
    assert words in first.words


def test_doctor_prints_what_is_wrong(ring: type, monkeypatch: pytest.MonkeyPatch) -> None:
    call = ["doctor", "--family", NAME, "env.n_places=9"]
    done = CliRunner().invoke(build(), call, env={"COLUMNS": "200"})
    assert (done.exit_code, "broken" in done.output) == (0, False)
    assert "ring:Ring: Find the place of a ring that pays." in done.output
    spoil(ring, "steps", monkeypatch)
    done = CliRunner().invoke(build(), call, env={"COLUMNS": "200"})
    assert str(done.exception) == "broken: steps; the table says what to do"


def test_only_an_optimum_that_is_known_is_demonstrated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    line = {"name": "float_line:FloatLine", "n_validation": 1, "n_heldout": 2, "horizon": 5}
    shown = {"evaluation": {"demonstrated_episodes": 2}}
    assert Config.model_validate({"env": line, **shown}).evaluation.demonstrated_episodes == 2
    with pytest.raises(ValueError, match=r"env\.name=float_line:FloatLine are not known; leave it out"):
        Config.model_validate({"env": {**line, "known": False, "base": 0.0}, **shown})


def test_floats_negative_returns_and_an_unknown_optimum_are_promises_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    line = {"name": "float_line:FloatLine", "n_validation": 1, "n_heldout": 2}
    assert [f for f in check_family(env_config(line)) if not f.kept] == []
    (fault,) = [f for f in check_family(env_config({**line, "base": 0.0})) if not f.kept]
    assert "optimal_return(0) is 0, not above random_return, the 0 that counts as 0" in fault.words
    *kept, optimum = check_family(env_config({**line, "known": False, "base": 0.0}))
    assert all(f.kept for f in kept)
    assert optimum.words == "unknown; reports divide returns by 1, that is, shown as they are"
    words = [stated_optimum(Config.model_validate({"env": {**line, "horizon": 5, **more}}))
             for more in ({}, {"known": False, "base": 0.0})]  # fmt: skip
    assert words == [
        "Returns and optima are both counted from a random_return of -20.",
        "The optimum is not known: returns are divided by 1, that is, shown as they are.",
    ]
    assert (
        measure_of(Config.model_validate({"env": {**line, "horizon": 5, "known": False, "base": 0.0}})).unit
        == ""
    )
    (fault,) = [f for f in check_family(env_config({**line, "known": False})) if not f.kept]
    assert "optimal_return(0) is 1 and random_return -20; they are 1 and 0 then" in fault.words


@pytest.mark.parametrize("name", ["frozen_lake", "cued_darkroom", "bandit"])
def test_ours_keep_their_promises(name: str) -> None:
    findings = list(check_family(env_config({"name": name, "horizon": 24, "n_tasks": 6, "n_validation": 0})))
    assert [f for f in findings if not f.kept] == []
    assert len(findings) == 8


@pytest.mark.usefixtures("ring")
def test_the_template_trains_and_is_evaluated(tmp_path: Path) -> None:
    config = Config.model_validate(
        {
            "env": {"name": NAME, "n_places": 5, "horizon": 6, "n_heldout": 2, "n_validation": 0},
            "source": {"kind": "noise_distillation", "n_streams": 4, "steps_per_stream": 120},
            "model": {"kind": "compressed_ad", "n_embd": 16, "n_layer": 1, "n_head": 2, "n_transit": 8,
                      "max_compression_depth": 1, "n_latent": 2, "encoder_n_layer": 1},
            "train": {"n_updates": 2, "batch_size": 4, "log_every": 1, "checkpoint_every": 2,
                      "validate_every": 0, "num_warmup_steps": 0, "watchdog_share": None},
        }
    )  # fmt: skip
    family, split = task_family(config.env), split_tasks(config.env)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        write_root(file, Provenance(config.env, config.source, split, {}, "test"))
        for task in family.task_ids:
            history = learn(family, task, config.source)
            write_task(file, task, family.goal(task), family.optimal_return(task), history)
    require_sound(tmp_path / "a.h5", config.env)
    with open_histories(tmp_path / "a.h5") as histories:
        assert histories.provenance.env == config.env
        learner = build_training(config, read_arrays(histories, family, split.train))
    learner.fit(tmp_path / "run", run_id="ring", device=torch.device("cpu"), stop=StopFlag())
    result = roll_out(learner.model.eval(), family, split.heldout, n_rollouts=2, n_episodes=3, seed=0)
    assert result.returns.shape == (2, 2, 3)
    assert (result.shares(family) <= 1).all()


@pytest.mark.parametrize(
    ("gives", "words"),
    [
        (
            None,
            r"fails with TypeError: .* \(\w+\.py, line \d+\); cad doctor --family float_line:FloatLine tries",
        ),
        (
            "flat",
            r"fails with ValueError: could not broadcast .*; cad doctor --family float_line:FloatLine tries",
        ),
    ],
)
def test_what_a_family_raises_is_one_message(
    gives: str | None, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    env = env_config({"name": "float_line:FloatLine", "n_heldout": 2, "n_validation": 1})
    kind = type(task_family(env))
    right = kind.transition

    def transition(self, *arguments):
        after, rewards, hidden = right(self, *arguments)
        return (after[:, 0], rewards, hidden) if gives else None

    monkeypatch.setattr(kind, "transition", transition)
    sent: list[tuple[object, object]] = []  # what went wrong, and what the worker took

    def asked() -> list[int]:
        if sent:
            raise EOFError
        return [0]

    source = NoiseDistillationConfig(kind="noise_distillation", n_streams=2, steps_per_stream=12)
    _work(SimpleNamespace(recv=asked, send=sent.append), env, source, tmp_path, "")
    ((problem, _),) = sent
    assert isinstance(problem, CadError) and re.search(words, str(problem))
