"""Cost of collecting through the Gymnasium adapter, against a plain ``SyncVectorEnv`` loop.

``python benchmarks/adapter.py`` steps the same environments with the same random actions on both sides, in
turns, on one core; ours also checks, encodes and records every transition.  Rates are medians over laps, a
CPU-second.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from rich.console import Console
from rich.table import Table
from throughput import Laps, use_one_core

from cad.envs.families.gymnasium_tasks import GymnasiumTasks
from cad.envs.registry import task_family
from cad.envs.vec_env import StreamVecEnv
from cad.schema import Config
from cad.storage import write_json

MOST = 1.5
"""Times the cost of the plain loop."""
STREAMS = 20
TASKS: dict[str, dict[str, Any]] = {
    "FrozenLake-v1": {"horizon": 16, "reward_values": [0, 1], "kwargs": {"is_slippery": False}},
    "CartPole-v1": {"horizon": 100},
    "Acrobot-v1": {"horizon": 200},
    "Pendulum-v1": {"horizon": 200, "bins": 5},
}


@dataclass(frozen=True)
class Row:
    """Environment steps a CPU-second on both sides."""

    env: str
    ours: float
    plain: float

    @property
    def cost(self) -> float:
        """What a step costs here, as a multiple of the plain loop's."""
        return self.plain / self.ours


def measure(env: str, steps: int, laps: int) -> Row:
    """Laps of ``steps`` calls, each of :data:`STREAMS` environments."""
    tasks = [{"seed": seed} for seed in range(4)]
    settings = {"name": "gymnasium", "id": env, "reference_return": 1, "tasks": tasks, **TASKS[env]}
    settings |= {"n_heldout": 1, "n_validation": 1}
    family = task_family(Config.model_validate({"env": settings}).env)
    assert isinstance(family, GymnasiumTasks)
    plain = gym.vector.SyncVectorEnv(
        [lambda: gym.make(env, max_episode_steps=family.horizon, **settings.get("kwargs", {}))] * STREAMS
    )
    plain.reset(seed=0)
    generator = np.random.default_rng(0)
    mine, theirs = Laps(), Laps()
    for _ in range(laps):
        actions = generator.integers(0, family.spaces.n_actions, (steps, STREAMS))
        streams = StreamVecEnv(family, np.zeros(STREAMS, dtype=np.int64), steps)
        mine.start()
        for step in actions:
            streams.advance(step)
        mine.lap(actions.size)
        taken = family.codec.actions_of(actions.ravel()).reshape(
            steps, STREAMS, *plain.single_action_space.shape
        )
        theirs.start()
        for step in taken:
            plain.step(step)
        theirs.lap(actions.size)
    plain.close()
    return Row(env, mine.rates().cpu, theirs.rates().cpu)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write; returns 1 with ``--check`` where a step costs too much."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers as JSON")
    parser.add_argument("--check", action="store_true", help=f"exit with 1 above {MOST} times the cost")
    parser.add_argument("--quick", action="store_true", help="seconds, not minutes; the numbers mean nothing")
    options = parser.parse_args(arguments)
    use_one_core()
    steps, laps = (40, 1) if options.quick else (2_000, 7)
    rows = [measure(env, steps, laps) for env in TASKS]
    table = Table("environment", "ours, steps a CPU-second", "SyncVectorEnv", f"cost (at most {MOST})")
    for row in rows:
        style = "red" if row.cost > MOST else ""
        table.add_row(row.env, f"{row.ours:,.0f}", f"{row.plain:,.0f}", f"{row.cost:.2f}", style=style)
    Console().print(table)
    ok = all(row.cost <= MOST for row in rows)
    if options.json:
        results = [{**vars(row), "cost": row.cost} for row in rows]
        write_json(options.json, {"quick": options.quick, "most": MOST, "results": results, "ok": ok})
    return int(options.check and not ok)


if __name__ == "__main__":
    sys.exit(main())
