"""Bandits: arms that pay with a probability of their own."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from cad.config.section import PositiveInt
from cad.envs.config import EnvConfig
from cad.envs.draws import Draws, explored
from cad.envs.family import Spaces, TaskFamily

if TYPE_CHECKING:
    from cad.envs.arrays import FloatArray, IntArray, NoiseArray

# Ids are whole numbers that JSON and JavaScript keep exactly.
_MOST_TASKS = 2**53
# Arms pay with a probability of 1 to this many per cent: no task is without reward.
_LEVELS = 100


class BanditConfig(EnvConfig):
    """Find the arm that pays most often."""

    DEFAULT_HORIZON: ClassVar[int] = 20
    DEFAULT_TASKS: ClassVar[int] = 300

    name: Literal["bandit"] = Field("bandit", description="Task family.")
    n_arms: Annotated[int, Field(ge=2, le=100)] = Field(5, description="Arms.")
    horizon: PositiveInt | None = Field(None, description="Pulls an episode; default 20.")
    n_tasks: PositiveInt | None = Field(
        None, description="Use a random subset of this many tasks (drawn with split_seed); default 300."
    )

    @property
    def family_size(self) -> int:
        """A task a choice of every arm's probability; 2**53 where there are more."""
        tasks: int = _LEVELS**self.n_arms
        return min(tasks, _MOST_TASKS)

    def in_words(self) -> str:
        """See :meth:`EnvConfig.in_words`."""
        return f"{self.name} with {self.n_arms} arms"


class Pulls:
    """Counts pulls and payments; what learners of bandits share."""

    def __init__(self, family: Bandit, n: int, epsilon: float, rng: Draws) -> None:
        import numpy as np

        self.epsilon, self.rng, self.n_arms = epsilon, rng, family.spaces.n_actions
        self.rows, self.actions = np.arange(n), np.zeros(n, dtype=np.int64)
        self.pulled, self.paid = np.zeros((2, n, self.n_arms))

    def index(self) -> FloatArray | NoiseArray:
        """(n, arms): the arm with the greatest index is pulled."""
        raise NotImplementedError

    def act(self, states: IntArray) -> IntArray:
        """See :meth:`ScriptedLearner.act`."""
        self.actions = explored(self.rng, self.index().argmax(axis=1), self.epsilon, self.n_arms)
        return self.actions

    def learn(self, states: IntArray, rewards: FloatArray, after: IntArray) -> None:
        """See :meth:`ScriptedLearner.learn`."""
        self.pulled[self.rows, self.actions] += 1
        self.paid[self.rows, self.actions] += rewards


class ThompsonSampling(Pulls):
    """Pulls the arm that is best in a draw from the posterior (Beta-Bernoulli, uniform prior)."""

    title = "Thompson sampling"

    def index(self) -> NoiseArray:
        """A draw of each arm's probability."""
        # As Beta draws, from two Gamma ones: NumPy draws these in half the time.
        won = self.rng.standard_gamma(1 + self.paid)
        drawn: NoiseArray = won / (won + self.rng.standard_gamma(1 + self.pulled - self.paid))
        return drawn


class UCB1(Pulls):
    """Pulls the arm with the greatest upper confidence bound (Auer et al., 2002, UCB1)."""

    title = "UCB1"

    def index(self) -> NoiseArray:
        """Mean payment and what its confidence interval adds; arms not pulled yet come first."""
        import numpy as np

        pulled = self.pulled.clip(1)
        width = np.sqrt(2 * np.log(self.pulled.sum(axis=1, keepdims=True).clip(1)) / pulled)
        unknown = (self.pulled == 0) * (1e6 + self.rng.random(self.pulled.shape))
        bound: NoiseArray = self.paid / pulled + width + unknown
        return bound


class Bandit(TaskFamily[BanditConfig]):
    """Find the arm that pays most often, and pull it.

    An episode is ``horizon`` pulls; nothing but the pulls tells the arms apart.  To behave optimally an
    agent has to remember which arm is best, log2(``n_arms``) bits; to find it, how often each one was
    pulled and paid, at every step.  There is no end to learning it: what counts is the regret on the way.
    Pulling the best arm shows that arm again; what is known of the others is only refreshed by exploring.

    **Observation** always 0: there is nothing to see.

    **Action** the arm to pull.

    **Reward** 1 with the arm's probability, else 0.

    **Optimum** ``horizon`` times the greatest probability: an expectation, which a lucky episode exceeds.

    **Termination** never.  **Truncation** after ``horizon`` steps (20).

    **Task id** the arms' probabilities in per cent, less 1, as digits to the base 100, that of arm 0 first.
    Where there are more than 2**53 tasks (8 arms and more), ids from 0 to 2**53 - 1 name as many of them:
    the probability of each arm is drawn from the id (:mod:`cad.envs.noise`).
    """

    gymnasium_id = "cad/Bandit-v0"
    config_class = BanditConfig
    is_random = True
    scripted_learners: ClassVar = {"thompson": ThompsonSampling, "ucb1": UCB1}
    reference_learners = ("thompson", "ucb1")

    @property
    def spaces(self) -> Spaces:
        """See :attr:`TaskFamily.spaces`."""
        return Spaces(("nothing",), (1,), self.config.n_arms, 2)

    @property
    def bits_to_remember(self) -> float:
        """Which arm is best."""
        return math.log2(self.config.n_arms)

    @property
    def steps_between_uses(self) -> float:
        """Every pull needs it."""
        return 1.0

    @property
    def start(self) -> tuple[int, ...]:
        """See :attr:`TaskFamily.start`."""
        return (0,)

    def goal(self, task_id: int) -> tuple[int, ...]:
        """Probability of each arm in per cent."""
        self._check_id(task_id)
        n = self.config.n_arms
        if _LEVELS**n <= _MOST_TASKS:
            return tuple(task_id // _LEVELS**place % _LEVELS + 1 for place in reversed(range(n)))
        from cad.envs.noise import noise_keys, uniform

        drawn = uniform(noise_keys("arms", 0, [task_id] * n, range(n)), 0)
        return tuple(int(level) + 1 for level in drawn * _LEVELS)

    def optimal_return(self, task_id: int) -> float:
        """See :meth:`TaskFamily.optimal_return`."""
        return self.horizon * max(self.goal(task_id)) / _LEVELS

    def describe(self, task_id: int) -> str:
        """See :meth:`TaskFamily.describe`."""
        goal, most = self.goal(task_id), 12
        shown = " ".join(map(str, goal[:most])) + " ..." * (len(goal) > most)
        return f"arms {shown} %, best {goal.index(max(goal))}"

    def short_name(self, task_id: int) -> str:
        """See :meth:`TaskFamily.short_name`."""
        return f"task {task_id}"

    def optimal_actions(
        self, goals: IntArray, states: IntArray, hidden: IntArray, steps_left: int | IntArray
    ) -> IntArray:
        """See :meth:`TaskFamily.optimal_actions`: the best arm."""
        best: IntArray = goals.argmax(axis=1)
        return best

    def transition(
        self,
        goals: IntArray,
        states: IntArray,
        hidden: IntArray,
        actions: IntArray,
        noise: NoiseArray | None = None,
    ) -> tuple[IntArray, FloatArray, IntArray]:
        """See :meth:`TaskFamily.transition`; ``goals`` is (n, arms)."""
        import numpy as np

        assert noise is not None
        paid = noise * _LEVELS < goals[np.arange(len(actions)), actions]
        return states.copy(), paid.astype("float32"), hidden

    def noise_cuts(
        self, goals: IntArray, states: IntArray, hidden: IntArray, actions: IntArray
    ) -> NoiseArray:
        """See :meth:`TaskFamily.noise_cuts`: below the arm's probability it pays."""
        import numpy as np

        from cad.envs.noise import smallest_reaching

        return smallest_reaching(goals[np.arange(len(actions)), actions], _LEVELS)[:, None]
