"""Ranks that join, do not arrive, or die: no rank waits forever, and the message names the lost one."""

from __future__ import annotations

import os
import signal
import time

import pytest

from cad.errors import UsageError
from cad.interrupt import InterruptedRun, StopFlag
from cad.training.engines import require_ranks
from cad.training.ranks import SINGLE_PROCESS, PeerLostError, RankAssignment
from cad.training.rendezvous import joined


def test_a_rank_that_does_not_come_is_named(tmp_path):
    begun = time.monotonic()
    with (
        pytest.raises(PeerLostError, match=r"ranks 1, 2 of 3 did not come within 1 s"),
        joined(RankAssignment(0, 3, 0, "127.0.0.1", "a"), tmp_path, StopFlag(), "cpu", patience=1),
    ):
        pass
    assert time.monotonic() - begun < 20


def test_a_first_rank_that_does_not_come_is_named(tmp_path):
    # An earlier attempt's address file has another rendezvous id.
    (tmp_path / ".ranks-a.json").write_text('{"host": "127.0.0.1", "port": 1}')
    with (
        pytest.raises(PeerLostError, match=r"rank 1 waited 1 s for rank 0 of 2 \(on 127.0.0.1\)"),
        joined(RankAssignment(1, 2, 0, "127.0.0.1", "b"), tmp_path, StopFlag(), "cpu", patience=1),
    ):
        pass


@pytest.mark.parametrize("rank", [0, 1])
def test_a_stop_ends_the_waiting(rank, tmp_path):
    stop = StopFlag()
    stop.request()
    with (
        pytest.raises(InterruptedRun),
        joined(RankAssignment(rank, 2, 0, "127.0.0.1", "a"), tmp_path, stop, "cpu"),
    ):
        pass


def test_a_single_process_votes_and_broadcasts_for_itself():
    stop = StopFlag()
    vote = SINGLE_PROCESS.vote(stop)
    assert not vote()
    stop.request()
    assert vote()
    assert SINGLE_PROCESS.broadcast([1]) == [1]
    SINGLE_PROCESS.barrier()


@pytest.mark.parametrize("killed", [0, 1])
def test_a_killed_rank_ends_the_other(killed, new_trainings, job, tiny_config):
    settings = {"n_updates": 100_000, "checkpoint_every": 100_000, "engine": "accelerate"}
    trainings = new_trainings()
    ranks = trainings.start(2, [job("endless", tiny_config("ad", train=settings))])
    try:
        metrics = trainings.folder / "endless" / "metrics.jsonl"
        deadline = time.monotonic() + 200
        while not (metrics.exists() and metrics.read_text().count("\n") > 2):
            assert time.monotonic() < deadline and ranks[0].poll() is None
            time.sleep(0.1)
        os.kill(ranks[killed].pid, signal.SIGKILL)
        begun = time.monotonic()
        output = ranks[1 - killed].communicate(timeout=120)[0]
        assert time.monotonic() - begun < 120
        assert ranks[1 - killed].returncode not in (0, 130)
        assert f"rank {killed} of 2" in output
    finally:
        for rank in ranks:
            rank.kill()
            rank.wait()


def test_what_does_not_divide_is_refused_by_name(tiny_config):
    def settings(**train):
        return tiny_config(train={"optimizer": "adamw", **train}).train

    require_ranks(settings(engine="deepspeed"), "train", 4)
    require_ranks(settings(), "train", 1)
    with pytest.raises(UsageError, match=r"train.engine=plain is one process, not 2 ranks"):
        require_ranks(settings(), "train", 2)
    with pytest.raises(UsageError, match=r"train.batch_size=8 .* 3 ranks x .*=1 make 3 parts"):
        require_ranks(settings(engine="accelerate"), "train", 3)
    with pytest.raises(UsageError, match=r"pretrain.batch_size=8 leaves one window"):
        require_ranks(settings(engine="accelerate", gradient_accumulation=4), "pretrain", 2)


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ({"engine": "deepspeed"}, "engine=deepspeed needs optimizer=adamw"),
        ({"engine": "accelerate", "zero_stage": 2}, "zero_stage=2 needs engine=deepspeed"),
        ({"zero_stage": 0}, "zero_stage=0 needs engine=deepspeed"),
        ({"engine": "accelerate", "compile": True}, "compile=true needs engine=plain"),
        ({"gradient_accumulation": 3}, "gradient_accumulation=3 does not divide"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(train, message, tiny_config):
    with pytest.raises(ValueError, match=message):
        tiny_config(train=train)
