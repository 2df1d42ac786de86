"""Roll-outs that are stopped and go on end as if nothing had been."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from lake_ring import NAME

from cad.config import EvaluationConfig
from cad.envs.registry import task_family
from cad.evaluation.knock_out import knock_out
from cad.evaluation.rollout import RolloutResult, roll_out
from cad.evaluation.saved_rollout import RolloutFile
from cad.interrupt import InterruptedRun, StopFlag

KINDS = ["ad", "compressed_ad", "region_ad", "gru", "linear_attention"]
CUED = {"name": "cued_darkroom", "size": 3, "horizon": 6, "n_cues": 2, "n_tasks": 6, "n_heldout": 2}


def file_in(folder: Path, owner: str = "evaluate-0123456789ab") -> RolloutFile:
    return RolloutFile(folder / "rollout.saved", owner, every=1e9)


def rolled_out(model, family, stop_at=(), file=None, **settings) -> RolloutResult:
    """A roll-out that is stopped after some episodes, and begun again each time."""
    how = {"n_rollouts": 3, "n_episodes": 6, "seed": 1, **settings}
    for episode in stop_at:
        stop = StopFlag()

        def progress(done: int, at: int = episode, stop: StopFlag = stop) -> None:
            if done == at:
                stop.request()

        with pytest.raises(InterruptedRun):
            roll_out(model, family, family.task_ids[:2], stop=stop, progress=progress, file=file, **how)
        assert file.path.exists()
    return roll_out(model, family, family.task_ids[:2], file=file, **how)


def assert_same(one: RolloutResult, other: RolloutResult) -> None:
    for field in dataclasses.fields(one):
        a, b = getattr(one, field.name), getattr(other, field.name)
        if isinstance(a, np.ndarray):
            np.testing.assert_array_equal(a, b, err_msg=field.name)
        elif field.name != "seconds":
            assert a == b, field.name


@pytest.mark.parametrize("kind", KINDS)
def test_twice_stopped_and_never_stopped_are_equal(kind, tiny_config, loud_model, tmp_path):
    config = tiny_config(kind)
    model, family = loud_model(config), task_family(config.env)
    assert_same(rolled_out(model, family), rolled_out(model, family, (2, 5), file_in(tmp_path)))


@pytest.mark.parametrize("kind", KINDS)
def test_in_a_demonstration_at_its_end_and_after_it(kind, tiny_config, loud_model, tmp_path):
    config = tiny_config(kind, env=CUED)
    model, family = loud_model(config), task_family(config.env)
    whole = rolled_out(model, family, demonstrated=3)
    assert (whole.returns[..., :3] == whole.optima[..., :3]).all()
    assert_same(whole, rolled_out(model, family, (2, 3, 5), file_in(tmp_path), demonstrated=3))


def test_with_sinks_facts_and_an_exchange_of_latents(tiny_config, loud_model, tmp_path):
    sinks = tiny_config("ad", env=CUED, model={"n_sink": 2})
    latents = tiny_config("compressed_ad", env=CUED)
    for name, config in (("sinks", sinks), ("latents", latents)):
        model, family = loud_model(config), task_family(config.env)
        exchange = None
        if name == "latents":
            exchange = knock_out(EvaluationConfig(knock_out="other", knock_out_episode=4), 3)
        how = {"before_episodes": exchange}
        (tmp_path / name).mkdir()
        stopped = rolled_out(model, family, (3,), file_in(tmp_path / name), **how)
        assert_same(rolled_out(model, family, **how), stopped)


@pytest.mark.parametrize("episode", [2, 5])  # after 5 some roll-outs are done, and go on uncounted
def test_with_episodes_that_end_early(episode, tiny_config, loud_model, tmp_path):
    env = {"env.name": NAME, "env.n_heldout": 2, "env.n_validation": 1}
    config = tiny_config("compressed_ad").with_overrides(env, "test")
    model, family = loud_model(config), task_family(config.env)
    assert_same(rolled_out(model, family), rolled_out(model, family, (episode,), file_in(tmp_path)))


@pytest.mark.parametrize("how", ["other", "noise"])
def test_what_is_given_to_others_is_the_same_where_episodes_end_early(how, tiny_config, loud_model, tmp_path):
    """A roll-out that is done steps on, and its memory can be another one's."""
    env = {"env.name": NAME, "env.n_heldout": 2, "env.n_validation": 1}
    config = tiny_config("compressed_ad").with_overrides(env, "test")
    model, family = loud_model(config), task_family(config.env)
    exchange = knock_out(EvaluationConfig(knock_out=how, knock_out_episode=6), 3)
    given: dict[int, dict[str, torch.Tensor]] = {}

    def run(number, stop_at=()):
        seen = given[number] = {}

        def watch(episode, begins, memory):
            exchange(episode, begins, memory)
            seen[repr(episode.tolist())] = memory.compressed.clone()

        return rolled_out(model, family, stop_at, file_in(tmp_path), before_episodes=watch)

    whole = run(0)
    (tmp_path / "rollout.saved").unlink(missing_ok=True)
    assert_same(whole, run(1, (3, 5)))
    assert given[1].keys() == given[0].keys()
    assert all(torch.equal(given[0][when], latents) for when, latents in given[1].items())
    assert (whole.actions[whole.lengths.sum(axis=2) < whole.actions.shape[2]][:, -1] == 0).all()


def test_a_file_of_another_stage_or_a_damaged_one_is_not_used(tiny_config, loud_model, tmp_path, caplog):
    config = tiny_config("gru")
    model, family = loud_model(config), task_family(config.env)
    whole = rolled_out(model, family)
    file = file_in(tmp_path)
    assert_same(whole, rolled_out(model, family, (3,), file))
    assert file.load() is not None and file_in(tmp_path, "evaluate-ba9876543210").load() is None
    for at in range(0, file.path.stat().st_size, 211):
        data = bytearray(file.path.read_bytes())
        data[at] ^= 1
        file.path.write_bytes(data)
        assert file.load() is None and not file.path.exists()
        data[at] ^= 1
        file.path.write_bytes(data)
    assert "is damaged" in caplog.text and len(list((tmp_path / "set-aside").iterdir())) > 5
    assert file.load() is not None
    file.remove()
    assert file.load() is None
