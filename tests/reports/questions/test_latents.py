"""What probes found, in the report."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cad.envs.registry import task_family
from cad.evaluation.probes.result import LatentProbe, Target
from cad.evaluation.replay import replay_actions, rollout_keys
from cad.reports import (
    CellResult,
    Provenance,
    make_study,
    write_report,
)
from cad.reports.data import (
    probe_tables,
)
from cad.reports.plotting import drawing_style
from cad.reports.questions import (
    latents,
)
from cad.schema import ReportConfig

Make = Callable[..., CellResult]


TASKS = (38, 51, 62)


def probe(trained: float = 1.0, names: tuple[str, ...] = ("goal",)) -> LatentProbe:
    untrained = ((3.5,) * 3, (2.0, 2.0, 0.25))
    target = Target("", ((3.0,) * 3, (trained,) * 3), untrained, (4.0, 5.0, 6.0), (0.1, 0.8), (0.0, 0.6))
    return LatentProbe(
        task_ids=TASKS, fit_tasks=73, fit_rollouts=4, untrained_encoders=3, counts=(1, 4),
        targets=tuple(replace(target, name=name) for name in names),
        found=((0.5,) * 3, (1.0,) * 3), attention=((0.1, 0.2, 0.3), (0.4, 0.5, 0.6)), uniform=0.25,
    )  # fmt: skip


def actions(task: int) -> np.ndarray:
    """Eight roll-outs of 50 episodes; the odd ones stay where they are."""
    rng = np.random.default_rng(task)
    drawn = rng.integers(0, 5, (8, 1000), dtype=np.uint8)
    drawn[1::2] = 4
    return drawn


def consistent(cell: Make, **changes: object) -> CellResult:
    """A cell whose returns are those of its actions."""
    result = cell(depth=1, n_latent=4, **changes)
    family = task_family(result.config.env)
    returns = [
        replay_actions(family, [task] * 8, actions(task), rollout_keys(0, [task], 8)).returns
        for task in result.task_ids
    ]
    compression_steps = np.tile(np.arange(40, 1000, 40, dtype=np.int32), (8, 8, 1))
    return replace(result, returns=np.array(returns), actions=actions, compression_steps=compression_steps)


def test_the_sentence_and_the_tables_are_computed(cell: Make) -> None:
    cells = [cell(0.9, depth=1, probe=probe(1.0)), cell(0.9, depth=1, seed=1, probe=probe(2.0))]
    study = make_study("s", "", "", [*cells, cell(0.5, depth=3, probe=probe(9.0)), cell(kind="ad")], None)
    text = latents.sentence(study)
    assert "depth 1, 16 latents finds a held-out task's goal to 3.0 moves after one compression" in text
    # Trained 1.5; untrained (2 + 2 + 0.25) / 3; the difference is the mean over both counts.
    assert "to 1.5 after 4 (an untrained encoder over the same roll-outs: 3.5 and 1.4" in text
    assert "the mean goal of the training tasks: 5.0)" in text
    assert "0.2 moves closer than the untrained ones, and closer on 2 of 3 held-out tasks" in text
    assert "depth 1, 16 latents gives 30% to 60% of its attention" in text
    assert "(10% to 40% before the first compression); equal weights would give 25%" in text
    tables = probe_tables(study)
    assert len(tables["latent_probe"].rows) == 3 * 2 * 3
    assert tables["latent_probe"].rows[3] == (
        "CompressedAD, depth 1, 16 latents", 0, "goal", 4, 38, 1.0, 2.0, 4.0, 1.0,
    )  # fmt: skip
    assert len(tables["latent_attention"].rows) == 3 * 2 * 3
    worse = make_study("s", "", "", [cell(probe=probe(9.0))], None)
    assert "3.5 moves farther than the untrained ones, and closer on 0 of 3" in latents.sentence(worse)


@pytest.mark.parametrize("names", [("goal",), ("key", "door"), ()])
def test_figures_of_probes(names: tuple[str, ...], cell: Make) -> None:
    cells = [cell(depth=depth, n_latent=n, probe=probe(names=names)) for depth in (1, 3) for n in (4, 16)]
    study = make_study("s", "", "", cells, None)
    with drawing_style():
        drawings = [draw(study) for draw in latents.SECTION.figures]
    assert [drawing is not None for drawing in drawings] == [bool(names), True]
    assert set(probe_tables(study)) == {"latent_attention", *(["latent_probe"] if names else [])}


def further(made: LatentProbe) -> LatentProbe:
    """The probe of a later version, which goes on to more compressions."""

    def more(values: tuple) -> tuple:
        return (*values, values[-1])

    targets = tuple(
        replace(
            target, trained=more(target.trained), untrained=more(target.untrained), r2=more(target.r2),
            r2_untrained=more(target.r2_untrained),
        )
        for target in made.targets
    )  # fmt: skip
    attention = tuple(more(layer) for layer in made.attention)
    return replace(made, counts=(1, 4, 48), targets=targets, found=more(made.found), attention=attention)


def test_seeds_that_were_probed_by_two_versions(cell: Make) -> None:
    """What both have is shown, and all of it is in the tables."""
    for old, n_rows in ((probe(1.0), 6 + 9), (probe(names=()), 9)):
        cells = [cell(depth=1, probe=old), cell(depth=1, seed=1, probe=further(probe(2.0)))]
        study = make_study("s", "", "", cells, None)
        text = latents.sentence(study)
        assert ("to 3.0 moves after one compression and to 1.5 after 4 (" in text) == bool(old.targets)
        assert "After 4 compressions a step" in text
        with drawing_style():
            drawings = [draw(study) for draw in latents.SECTION.figures]
        assert [drawing is not None for drawing in drawings] == [bool(old.targets), True]
        tables = probe_tables(study)
        assert len(tables["latent_probe"].rows) == n_rows
        assert len(tables["latent_attention"].rows) == 2 * 3 + 2 * 4


def test_several_goals_are_told_as_such(cell: Make) -> None:
    study = make_study("s", "", "", [cell(probe=probe(names=("goals",)))], None)
    text = latents.sentence(study)
    assert "task's goals to 3.0 moves" in text and "the trained latents place them 0.5 moves closer" in text


def test_a_report_with_and_without_probes(tmp_path: Path, cell: Make, origin: Provenance) -> None:
    best = consistent(cell, probe=probe())
    page = write_report("r", ReportConfig(), [best], None, origin, tmp_path, figures=False).read_text()
    assert "What is in the latents?" in page
    assert "What a roll-out looks like" in page
    written = json.loads((tmp_path / "report.json").read_text())
    for name in ("latent_probe", "latent_attention", "rollouts"):
        assert (tmp_path / f"csv/{name}.csv").exists()
        assert written["tables"][name]["rows"]
    without = replace(best, probe=None, actions=None)
    page = write_report("r", ReportConfig(), [without], None, origin, tmp_path, figures=False).read_text()
    assert "What is in the latents?" not in page
    assert "What a roll-out looks like" not in page
    written = json.loads((tmp_path / "report.json").read_text())
    assert not {"latent_probe", "latent_attention", "rollouts"} & written["tables"].keys()
    assert not {figure["name"] for figure in written["figures"]} & {"latents", "attention", "rollouts"}
