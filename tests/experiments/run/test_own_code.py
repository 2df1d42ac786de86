"""An environment of one's own whose code changes after its stages ran: commands and the report say it."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from rich.console import Console

from cad.experiments.plan.directory import StageDirectory
from cad.experiments.plan.experiment import open_experiment
from cad.experiments.plan.own_code import recorded_code, warn_of_changed_code
from cad.experiments.reporting.provenance import gather_provenance
from cad.experiments.run.local_run import dry_run_text, run_experiment
from cad.experiments.run.resources import Resources
from cad.reports.output.provenance_section import facts, provenance_json, provenance_notices

VAULT = """
import gymnasium as gym

class Vault(gym.Env):
    def __init__(self, place=0):
        self.place = place
        self.observation_space, self.action_space = gym.spaces.Discrete(2), gym.spaces.Discrete(2)
    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return 0, {}
    def step(self, action):
        return int(action), float(action == self.place), False, False, {}

gym.register("OwnCodeVault-v0", entry_point="own_code_vault:Vault")
"""
SETTINGS = """
name: own_code
base:
  env:
    name: gymnasium
    id: own_code_vault:OwnCodeVault-v0
    horizon: 5
    reward_values: [0, 1]
    n_heldout: 1
    n_validation: 0
    tasks: [{kwargs: {place: 0}}, {kwargs: {place: 1}}, {kwargs: {place: 0}, seed: 1}]
  source: {n_streams: 2, steps_per_stream: 200, n_steps: 20, batch_size: 20}
  train: {validate_every: 0}
arms:
  - {name: CompressedAD, set: {model.kind: compressed_ad, model.n_transit: 10}}
"""


def test_changed_code_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog) -> None:
    module, file = tmp_path / "own_code_vault.py", tmp_path / "own.yaml"
    module.write_text(VAULT)
    file.write_text(SETTINGS)
    monkeypatch.syspath_prepend(str(tmp_path))
    experiment = open_experiment(file, [], tmp_path / "runs")
    stages = experiment.cells[0].stages
    resources = Resources(workers=1, device="cpu")
    run_experiment(
        experiment,
        resources=resources,
        inline=True,
        console=Console(quiet=True),
        last="histories",
        report=False,
    )
    done = StageDirectory(experiment.root, stages[0].name)
    record = done.record()
    assert record["cpu_seconds"] > record["workers_cpu_seconds"] > 0
    assert record["peak_memory_bytes"] > record["workers_memory_bytes"] > 0
    (before,) = recorded_code(done).values()
    caplog.set_level(logging.WARNING)
    warn_of_changed_code(experiment.root, stages)
    provenance = gather_provenance(experiment)
    assert not caplog.records and provenance.own_code == {"own_code_vault": before}
    assert not [line for line in provenance_notices(provenance) if "own_code_vault" in line]
    assert ("code of own_code_vault", f"sha256 {before}") in [
        (fact.term, fact.text) for fact in facts(provenance, [0], "")
    ]
    assert any(
        command.endswith("# with the folder of own_code_vault on PYTHONPATH")
        for command in provenance.commands
    )

    module.write_text(VAULT.replace("float(action", "0.5 * float(action"))
    dry_run_text(experiment)
    assert f"the code of own_code_vault has changed since {done.name} ran" in caplog.text
    assert "The code of own_code_vault has changed since the stages were run." in provenance_notices(
        gather_provenance(experiment)
    )


def test_an_environment_of_ours_has_no_code_to_tell(tmp_path: Path) -> None:
    experiment = open_experiment(Path("examples/small.yaml"), [], tmp_path)
    provenance = gather_provenance(experiment)
    assert not provenance.own_code and "own_code" not in provenance_json(provenance)
    assert not any("PYTHONPATH" in command for command in provenance.commands)
