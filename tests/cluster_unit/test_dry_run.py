"""What ``cad submit --dry-run`` prints: what each script asks for, and where the whole of it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from cad.cluster import dry_run as module
from cad.cluster.arrays import plan_arrays
from cad.cluster.dry_run import dry_run
from cad.cluster.profile import Profile
from cad.cluster.submit import Plan
from cad.experiments.plan.cells import distinct_stages
from cad.experiments.plan.experiment import open_experiment


def test_options_are_shown_and_the_script_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "has_slurm", lambda: False)
    experiment = open_experiment(Path("examples/small.yaml"), [], tmp_path)
    plan = Plan(plan_arrays(distinct_stages(experiment.cells), {}, 100), {})
    text, refused = dry_run(experiment, Profile(), plan)
    assert refused == []
    scripts = sorted((tmp_path / "small/jobs/dry-run").glob("*.sh"))
    assert [file.name for file in scripts] == ["1-histories.sh", "2-train.sh", "3-evaluate.sh"]
    for file in scripts:
        assert f"{file} (the whole script)" in text
        options = [line for line in file.read_text().splitlines() if line.startswith("#SBATCH ")]
        assert len(options) > 5 and all(f"    {line}\n" in text for line in options)
    assert len(text.splitlines()) < 80
