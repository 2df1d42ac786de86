"""Episodes that end when they end: collected, audited, sampled, rolled out."""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
import torch
from lake_ring import NAME

from cad.config import LearnerConfig, NoiseDistillationConfig, PPOConfig
from cad.envs.check import check_family
from cad.envs.registry import env_config, task_family
from cad.envs.split import split_tasks
from cad.evaluation.results import load_results, save_results
from cad.evaluation.rollout import roll_out
from cad.experiments.reporting.gather import _most_episodes
from cad.histories.audit import audit
from cad.histories.episodes import EpisodeIndex, first_steps, whole_episodes
from cad.histories.file import Provenance, open_histories, write_root, write_task
from cad.histories.sampler import WindowSampler, read_arrays
from cad.histories.source import learn
from cad.histories.streams import stream_keys
from cad.interrupt import StopFlag
from cad.models.registry import MODELS
from cad.models.spec import HistoryShape
from cad.reports.data.cells import CellSummary
from cad.schema import Config
from cad.training.learner import build_training
from cad.training.metrics import read_metrics

ENV = env_config({"name": NAME, "n_heldout": 2, "n_validation": 1})
FAMILY = task_family(ENV)


def noisy(steps: int = 150) -> NoiseDistillationConfig:
    return NoiseDistillationConfig(kind="noise_distillation", n_streams=4, steps_per_stream=steps)


@pytest.fixture(scope="module")
def collected(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("varying") / "histories.h5"
    with h5py.File(path, "w") as file:
        write_root(file, Provenance(ENV, noisy(), split_tasks(ENV), {}, "test"))
        for task in FAMILY.task_ids:
            write_task(file, task, FAMILY.goal(task), 1.0, learn(FAMILY, task, noisy()))
    return path


@pytest.fixture(scope="module")
def arrays(collected: Path):
    with open_histories(collected) as file:
        return read_arrays(file, FAMILY, split_tasks(ENV).train)


@pytest.mark.parametrize("slips", [False, True])
def test_the_family_keeps_its_promises(slips: bool) -> None:
    env = env_config({"name": NAME, "slips": slips, "horizon": 24})
    findings = {finding.promise: finding for finding in check_family(env)}
    assert [f for f in findings.values() if not f.kept] == []
    assert "episodes terminated" in findings["steps"].words


def test_termination_and_truncation_are_told_apart() -> None:
    env = FAMILY.environments([3, 3, 3])  # the prize at 4, the hole at 6
    assert env.reset().tolist() == [[0]] * 3
    for step in range(1, 9):
        outcome = env.advance(np.array([2, 1, 0]))
        assert outcome.terminated.tolist() == [step % 4 == 0, False, step % 3 == 0]
        assert outcome.truncated.tolist() == [False, step == 8, False]
        assert outcome.rewards.tolist() == [float(step % 4 == 0), 0, 0]
        assert outcome.after[:, 0].tolist() == [(step - 1) % 4 + 1, 0, 9 - ((step - 1) % 3 + 1)]
        assert outcome.observed[:, 0].tolist() == [step % 4, 0, (9 - step % 3) % 9]
    assert env.episode.tolist() == [2, 1, 2]


@pytest.mark.parametrize("slips", [False, True])
def test_a_batch_is_its_single_environments(slips: bool) -> None:
    family = task_family(env_config({"name": NAME, "slips": slips}))
    streams = learn(family, 5, noisy(60))
    for row, key in enumerate(stream_keys(noisy(60), 5)):
        env = family.environments([5], np.array([key]))
        observed = env.reset()
        for step in range(60):
            assert observed[0].tolist() == streams.states[row, step].tolist()
            outcome = env.advance(streams.actions[row, step : step + 1].astype(np.int64))
            assert outcome.after[0].tolist() == streams.next_states[row, step].tolist()
            assert outcome.terminated[0] == streams.terminations[row, step]
            assert (outcome.terminated | outcome.truncated)[0] == streams.episode_ends[row, step]
            observed = outcome.observed


def test_ppo_learns_it() -> None:
    source = PPOConfig(n_streams=20, steps_per_stream=600, n_steps=20, batch_size=200)
    history = learn(FAMILY, 2, source)
    returns = whole_episodes(history.rewards, history.episode_ends).mean(axis=0)
    assert returns[:3].mean() < 0.7
    assert returns[-5:].mean() > 0.9


def test_histories_pass_the_audit_and_what_is_wrong_is_found(collected: Path, tmp_path: Path) -> None:
    report = audit(collected, env=ENV)
    assert report.problems == []
    assert report.transitions == 8 * 4 * 150
    damaged = tmp_path / "damaged.h5"
    for name, words in {
        "terminations": "terminations is",
        "episode_ends": "episode_ends is",
        "states": "state is",
        "rewards": "reward is",
    }.items():
        damaged.write_bytes(collected.read_bytes())
        with h5py.File(damaged, "r+") as file:
            data = file["task_00002"][name]
            data[1, 7] = 1 - data[1, 7]
        (problem,) = audit(damaged, env=ENV).problems
        assert problem.startswith(f"task 2 (prize at 3), stream 1, step 7: {words}")
        assert "such faults" not in problem or "(1 such" in problem
    damaged.write_bytes(collected.read_bytes())
    with h5py.File(damaged, "r+") as file:
        del file["task_00002"]["terminations"]
    assert audit(damaged, env=ENV).problems == ["task_00002: the dataset terminations is missing"]


def test_a_learner_that_the_family_lacks_is_refused() -> None:
    with pytest.raises(StopIteration):
        learn(FAMILY, 0, LearnerConfig(kind="learner", n_streams=2, steps_per_stream=5))


# Windows ------------------------------------------------------------------------------------


def slow_window(ends: np.ndarray, start: int, gap: int, length: int) -> list[int]:
    """Step by step: to the end of the episode, then on with the gap-th after it."""
    first = np.flatnonzero(first_steps(ends)).tolist()
    steps, at = [], start
    while len(steps) < length and at < len(ends):
        steps.append(at)
        if ends[at]:
            following = [number for number, begin in enumerate(first) if begin > at][gap - 1 : gap]
            at = first[following[0]] if following else len(ends)
        else:
            at += 1
    return steps


def test_windows_take_every_gth_episode_and_all_beginnings_are_as_likely() -> None:
    rng = np.random.default_rng(0)
    ends = (rng.random((1, 60)) < 0.25).astype(np.uint8)
    index, begins = EpisodeIndex(ends, 3), first_steps(ends[0])
    for gap in (1, 2, 3):
        fitting = [s for s in np.flatnonzero(begins) if len(slow_window(ends[0], s, gap, 12)) == 12]
        seen = []
        for place in (np.arange(len(fitting)) + 0.5) / len(fitting):
            steps, before = index.window(0, begins, 12, np.array([(gap - 0.5) / 3, place]))
            assert steps.tolist() == slow_window(ends[0], steps[0], gap, 12)
            episode = np.flatnonzero(begins).tolist().index(steps[0])
            firsts = [*np.flatnonzero(begins).tolist(), 60]
            assert before == (firsts[episode - gap + 1] - 1 if episode >= gap else -1)
            seen.append(steps[0])
        assert seen == fitting
    # Where no window of a gap fits, the gap shrinks; one of the whole history always does.
    assert index.window(0, begins, 60, np.array([0.99, 0.99]))[0].tolist() == list(range(60))


def test_windows_may_begin_inside_an_episode() -> None:
    ends = np.array([[0, 0, 1, 0, 1, 0, 0, 0]], dtype=np.uint8)
    anywhere = np.ones(8, dtype=bool)
    seen = {
        tuple(steps.tolist()): before
        for place in np.linspace(0, 0.999, 50)
        for steps, before in [EpisodeIndex(ends, 1).window(0, anywhere, 4, np.array([0.0, place]))]
    }
    assert seen == {(i, i + 1, i + 2, i + 3): i - 1 for i in range(5)}
    steps, before = EpisodeIndex(ends, 2).window(0, anywhere, 5, np.array([0.9, 0.7]))
    assert (steps.tolist(), before) == ([1, 2, 5, 6, 7], 0)


@pytest.mark.parametrize(
    ("kind", "burn_in"),
    [
        *((kind, 0) for kind in MODELS),
        *((kind, 3) for kind, spec in MODELS.items() if "train.burn_in" in spec.other_settings),
    ],
)
def test_batches_are_windows_of_single_histories(kind: str, burn_in: int, arrays, tiny_config) -> None:
    config = tiny_config(kind, train={"burn_in": burn_in})
    shape = HistoryShape(arrays.actions.shape[-1], arrays.horizon)
    windows = config.spec.windows(config.model, config.train, shape)
    sampler = WindowSampler(arrays, windows, seed=0, batch_size=8, max_gap=3)
    ends = arrays.ends.reshape(-1, shape.steps)
    flat = {
        "observation": arrays.observations.reshape(len(ends), shape.steps, 1),
        "actions": arrays.actions.reshape(ends.shape),
        "rewards": arrays.rewards.reshape(ends.shape),
    }
    burnt = set()
    for update in range(3 if burn_in else 2):
        batch, first = sampler.batch(update), first_steps(ends)
        burnt.add(batch.burn_in)
        length = batch.actions.shape[1]
        windows_of = {}  # every window that there can be, by what it shows
        for history in range(len(ends)):
            for start in range(shape.steps):
                for gap in (1, 2, 3):
                    steps = slow_window(ends[history], start, gap, length)
                    shown = (flat["actions"][history, steps], flat["observation"][history, steps, 0])
                    windows_of[tuple(np.concatenate([*shown, first[history, steps]]).tolist())] = (
                        history, steps,
                    )  # fmt: skip
        for row in range(8):
            shown = (batch.actions[row], batch.steps.observation[row, :, 0], batch.steps.first[row])
            history, steps = windows_of[tuple(torch.cat(shown).tolist())]
            given = flat["rewards"][history, steps[:-1]].tolist()
            assert batch.steps.previous_reward[row, 1:].tolist() == given
            assert batch.steps.previous_action[row, 1:].tolist() == batch.actions[row, :-1].tolist()
        halves = [sampler.batch(update, part, 2) for part in range(2)]
        assert torch.equal(torch.cat([half.actions for half in halves]), batch.actions)
        assert torch.equal(torch.cat([half.steps.first for half in halves]), batch.steps.first)
    assert (max(burnt) > 0) == (burn_in > 0)


# Roll-outs ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def models(tiny_config, loud_model):
    def make(kind: str):
        settings = {"env": ENV.model_dump(), "source": noisy().model_dump()}
        return loud_model(tiny_config(kind).with_overrides(settings, "test"))

    return make


@pytest.mark.parametrize("kind", [kind for kind in MODELS if kind != "region_ad"])
def test_roll_outs_of_different_length_are_as_each_alone(kind: str, models) -> None:
    model = models(kind)
    hot_to_cold = lambda episode: 1.5 if episode < 3 else 0.7  # noqa: E731
    run = partial(roll_out, model, FAMILY, n_episodes=7, seed=3, temperature=hot_to_cold)
    together = run([0, 3, 6], n_rollouts=2)
    assert together.returns.shape == (3, 2, 7)
    assert len(set(together.lengths.sum(axis=2).ravel().tolist())) > 2
    assert (together.lengths >= 1).all() and (together.lengths <= 8).all()
    for index, task in enumerate([0, 3, 6]):
        alone = run([task], n_rollouts=1)
        steps = int(alone.lengths.sum())
        assert alone.lengths[0, 0].tolist() == together.lengths[index, 0].tolist()
        assert alone.returns[0, 0].tolist() == together.returns[index, 0].tolist()
        assert alone.actions[0, 0].tolist() == together.actions[index, 0, :steps].tolist()
        assert not together.actions[index, 0, steps:].any()
        assert alone.compressions[0, 0] == together.compressions[index, 0]
        taken = together.compression_steps[index, 0]
        assert alone.compression_steps[0, 0].tolist() == taken[taken > 0].tolist()


def test_returns_are_those_of_the_actions_and_are_kept(models, tmp_path: Path) -> None:
    result = roll_out(models("compressed_ad"), FAMILY, [1, 4], n_rollouts=3, n_episodes=5, seed=0)
    assert result.steps_per_second == pytest.approx(result.lengths.sum() / result.seconds)
    for index, task in enumerate(result.task_ids):
        for rollout in range(3):
            env = FAMILY.environments([task])
            env.reset()
            returns, lengths, total, length = [], [], 0.0, 0
            for action in result.actions[index, rollout, : result.lengths[index, rollout].sum()]:
                outcome = env.advance(np.array([action], dtype=np.int64))
                total, length = total + outcome.rewards[0], length + 1
                if outcome.any_ended:
                    returns, lengths = [*returns, total], [*lengths, length]
                    total, length = 0.0, 0
            assert returns == result.returns[index, rollout].tolist()
            assert lengths == result.lengths[index, rollout].tolist()
    save_results(tmp_path / "returns.h5", result)
    assert load_results(tmp_path / "returns.h5").lengths.tolist() == result.lengths.tolist()
    with h5py.File(tmp_path / "returns.h5") as file:
        assert file.attrs["format"] == 4
    save_results(tmp_path / "old.h5", dataclasses.replace(result, lengths=None))
    with h5py.File(tmp_path / "old.h5") as file:
        assert file.attrs["format"] == 2


def test_it_trains(arrays, tiny_config, tmp_path: Path) -> None:
    config = tiny_config("compressed_ad", train={"n_updates": 60, "log_every": 10, "checkpoint_every": 60})
    config = config.with_overrides({"env": ENV.model_dump(), "source": noisy().model_dump()}, "test")
    learner = build_training(config, arrays)
    learner.fit(tmp_path, run_id="varying", device=torch.device("cpu"), stop=StopFlag())
    losses = [line["loss"] for line in read_metrics(tmp_path / "metrics.jsonl") if "loss" in line]
    assert losses[-1] < 0.9 * losses[0]


def test_compressions_before_an_episode_are_counted_by_its_own_start() -> None:
    """Episodes of 3, 5 and 2 steps; compressed after steps 3 and 7: before none, one and two of them."""
    config = Config.model_validate({"env": ENV.model_dump(), "source": noisy(2000).model_dump()})
    result = SimpleNamespace(
        compression_steps=np.array([[[3, 7]]]), lengths=np.array([[[3, 5, 2]]]), config=config
    )
    cell = SimpleNamespace(result=result, normalised=np.array([[[0.25, 0.5, 0.75]]]))
    cell.compressions_before = CellSummary.compressions_before.func(cell)
    assert cell.compressions_before.tolist() == [[[0, 1, 2]]]
    assert CellSummary.by_compressions.func(cell) == [(0, 0.25, 1), (1, 0.5, 1), (2, 0.75, 1)]


def test_a_report_knows_how_many_episodes_training_saw(collected: Path) -> None:
    """The longest history of a training task; steps by the horizon would be 18."""
    directory = SimpleNamespace(checked=lambda _: collected, name=None)
    with h5py.File(collected) as file:
        counts = [file[f"task_{task:05d}/episode_ends"][:].sum(axis=1) for task in split_tasks(ENV).train]
    assert _most_episodes.__wrapped__(directory, ENV) == np.max(counts) > 18
