"""How much more memory and time a retry gives, and to which stages."""

from __future__ import annotations

from cad.cluster.arrays import ResourceMultiplier
from cad.cluster.profile import Profile
from cad.cluster.retry import multiplier_for
from cad.cluster.status import StageStatus
from cad.experiments.plan.stage import Stage
from cad.schema import Config


def test_what_waits_for_a_training_that_ran_out_gets_as_much_more(tmp_path):
    config = Config()
    histories = Stage("histories", config)
    train = Stage("train", config, (histories,))
    evaluate = Stage("evaluate", config, (train,))
    reasons = {histories: ("done", ""), train: ("dead", "out of memory"), evaluate: ("dead", "behind dead x")}
    statuses = {
        stage.name: StageStatus(stage.name, stage.kind, state, reason)
        for stage, (state, reason) in reasons.items()
    }
    multiplier = multiplier_for(tmp_path, Profile(), 8.0, 3.0)
    assert multiplier(train, statuses) == multiplier(evaluate, statuses) == ResourceMultiplier(8.0, 1.0)
    assert multiplier(histories, statuses) == ResourceMultiplier()
