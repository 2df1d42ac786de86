"""What a task family is: the protocol that one file in :mod:`cad.envs.families` fills in.

A family is a set of tasks with one set of rules.  Everything that the rest of the program needs to
know of a task comes from here: nothing outside compares a family's name.  Settings are read without
numpy, which is imported where arrays are made.
"""

from __future__ import annotations

import math
import random
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, TypeVar

from cad.envs.config import EnvConfig
from cad.errors import CadError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from cad.envs.arrays import BoolArray, FloatArray, IntArray, NoiseArray
    from cad.envs.batched import Environments
    from cad.envs.draws import Draws
    from cad.envs.foreign import AnyCodec
    from cad.envs.noise import Keys

Place = tuple[int, int]
"""Row and column."""

C = TypeVar("C", bound=EnvConfig)


@dataclass(frozen=True)
class Spaces:
    """What an agent sees, does and gets in every task of a family.

    An observation has one whole number for each of ``field_names``, below its entry in
    ``field_sizes``, then a float for each of ``real_names``; an action is one of ``n_actions``; a reward is a
    whole number below ``n_rewards``, one of ``reward_values`` where those are given, or with
    ``n_rewards`` 0 any float.
    """

    field_names: tuple[str, ...]
    field_sizes: tuple[int, ...]
    n_actions: int
    n_rewards: int
    real_names: tuple[str, ...] = ()
    reward_values: tuple[float, ...] | None = None

    @property
    def n_reals(self) -> int:
        """Floats in an observation."""
        return len(self.real_names)

    @property
    def observation_type(self) -> str:
        """The array type of observations in histories; float32 holds whole numbers below 2**24 exactly."""
        return "float32" if self.n_reals else _smallest(max(self.field_sizes))

    @property
    def action_type(self) -> str:
        """The array type of actions in histories."""
        return _smallest(self.n_actions)

    @property
    def reward_type(self) -> str:
        """The array type of rewards in histories."""
        whole = self.n_rewards and self.reward_values is None
        return _smallest(self.n_rewards) if whole else "float32"

    def reward_codes(self, rewards: npt.NDArray[Any]) -> npt.NDArray[np.int64] | FloatArray:
        """What models take of rewards: numbers of their values, int64; or with ``n_rewards`` 0 floats.

        Raises :class:`~cad.errors.CadError` for a reward that is none of ``reward_values``.
        """
        import numpy as np

        if not self.n_rewards:
            return rewards.astype(np.float32)
        if self.reward_values is None:
            return rewards.astype(np.int64)
        values = np.array(self.reward_values, dtype=np.float32)
        codes: npt.NDArray[np.int64] = np.abs(rewards[..., None] - values).argmin(axis=-1)
        wrong = rewards[~np.isclose(values[codes], rewards.astype(np.float32))]
        if wrong.size:
            raise CadError(
                f"a reward is {float(wrong.flat[0]):g}, which is none of env.reward_values="
                f"{list(self.reward_values)}; list it, or leave reward_values out for rewards of any size"
            )
        return codes

    @property
    def n_fields(self) -> int:
        """Whole numbers in an observation."""
        return len(self.field_sizes)

    @property
    def width(self) -> int:
        """Numbers in an observation, the floats too."""
        return self.n_fields + self.n_reals

    @property
    def n_observations(self) -> int:
        """Observations that there can be."""
        return math.prod(self.field_sizes)

    @property
    def strides(self) -> tuple[int, ...]:
        """Weights of the fields whose weighted sum numbers all observations from 0."""
        return tuple(math.prod(self.field_sizes[i + 1 :]) for i in range(self.n_fields))


def _smallest(n: int) -> str:
    """The smallest type of whole numbers below ``n``."""
    return "uint8" if n <= 2**8 else "uint16" if n <= 2**16 else "int32"


class ScriptedLearner(Protocol):
    """A program that learns the tasks of a family as an agent would: from what it sees, does and gets."""

    def act(self, states: IntArray) -> IntArray:
        """Actions (n,) in the states (n, fields)."""

    def learn(self, states: IntArray, rewards: FloatArray, after: IntArray) -> None:
        """Take in what followed: rewards (n,) and the states after (n, fields)."""


class LearnerClass(Protocol):
    """The class of a scripted learner."""

    title: str
    """What reports call it."""

    def __call__(self, family: Any, n: int, epsilon: float, rng: Draws) -> ScriptedLearner:
        """Learns in ``n`` environments of a family; ``epsilon`` is the share of random actions."""


class TaskFamily(ABC, Generic[C]):
    """Base of all families.

    Episodes last ``horizon`` steps; where :attr:`ends_early`, at most as many: they end when
    :meth:`terminates` says so.

    A task may consist of several *facts*, such as the goals of several cues: each episode needs one of
    them, drawn uniformly when it begins.  Everything else follows from the actions, and in families that
    are random from one number a step that is a pure function of the environment's key
    (:mod:`cad.envs.noise`).

    Args:
        config: the family's section ``env``.
        task_ids: canonical ids in use, ascending; default all of the family.
    """

    gymnasium_id: ClassVar[str | None] = None
    """Name in Gymnasium's registry, for a family that is to be there."""
    config_class: ClassVar[type[EnvConfig]]
    task_noun: ClassVar[str] = "task"
    """What reports call a task."""
    hidden_places: ClassVar[Mapping[str, slice]] = {}
    """Places that the agent has to find: the part of :meth:`goal` that is the row and column of each."""
    is_random: ClassVar[bool] = False
    """Whether chance decides what follows an action; :meth:`transition` needs ``noise`` then."""

    ends_early: ClassVar[bool] = False
    """Whether an episode may end before its horizon."""
    has_rules: ClassVar[bool] = True
    """Whether :meth:`transition` derives transitions again; not for environments of other programs."""

    scripted_learners: ClassVar[Mapping[str, LearnerClass]] = {}
    """Programs that learn the family's tasks by name, the usual one first."""
    reference_learners: ClassVar[tuple[str, ...]] = ()
    """Scripted learners whose regret reports show beside the models'."""

    def __init__(self, config: C, task_ids: Sequence[int] | None = None) -> None:
        self.config = config
        self.task_ids = tuple(range(config.family_size) if task_ids is None else task_ids)

    @property
    def has_optimum(self) -> bool:
        """Whether :meth:`optimal_return` is a return that was found out or stated.

        A family whose optimum nobody knows says False, and gives 1: reports show its returns as they are.
        """
        return True

    @property
    def random_return(self) -> float:
        """Return that counts as nothing; see :meth:`score`.

        Below every optimum: with negative rewards another one is stated, such as that of random actions.
        """
        return 0.0

    def score(self, returns: npt.ArrayLike, optimum: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Returns as shares of the way from :attr:`random_return` (0) to the optimum (1), broadcast."""
        import numpy as np

        base = self.random_return
        share: npt.NDArray[np.float64] = (np.asarray(returns, dtype=np.float64) - base) / (
            np.asarray(optimum, dtype=np.float64) - base
        )
        return share

    @property
    def best_in_words(self) -> str:
        """What :meth:`optimal_return` is called; empty where it is only 1, for raw returns."""
        return "optimum" if self.has_optimum else ""

    @property
    def score_in_words(self) -> str:
        """What reports divide returns by."""
        return "the optimum" if self.has_optimum else "1, that is, shown as they are"

    @classmethod
    def in_a_line(cls) -> str:
        """What the family is: the first line of its docstring."""
        return (cls.__doc__ or "").strip().partition("\n")[0]

    @property
    def name(self) -> str:
        """Name of the family."""
        return self.config.name

    @property
    def horizon(self) -> int:
        """Steps of every episode; the most, where :attr:`ends_early`."""
        return self.config.steps_per_episode

    @property
    @abstractmethod
    def spaces(self) -> Spaces:
        """Observations, actions and rewards."""

    @property
    def n_facts(self) -> int:
        """Facts of a task; an episode needs one of them."""
        return 1

    def remembered(self, facts: IntArray) -> IntArray | None:
        """What of each fact is kept from one episode that needs it to the next; None if nothing is."""
        return facts

    @property
    def bits_to_remember(self) -> float:
        """Information about a task that an agent has to gather to behave optimally, in bits."""
        return math.log2(self.config.family_size)

    @property
    def steps_between_uses(self) -> float:
        """Mean steps from an episode that needs a fact to the next one that needs it."""
        return float(self.n_facts * self.horizon)

    @property
    def n_hidden_states(self) -> int:
        """Values of the part of the state that no observation shows; 1 where there is none."""
        return 1

    @property
    def grid_size(self) -> int | None:
        """Rows of the square grid whose cells the first two fields are; None where there is no grid."""
        return None

    @property
    def can_be_drawn(self) -> bool:
        """Whether roll-outs are paths on a grid that are replayed from their actions."""
        return self.grid_size is not None and not self.ends_early

    @property
    def rewards_tell(self) -> bool:
        """Whether a return above 0 means that something was found: no reward is negative, and most are 0.

        Known of rewards of a few values only; of any floats it is not assumed.
        """
        spaces = self.spaces
        return spaces.n_rewards > 0 and (spaces.reward_values is None or min(spaces.reward_values) == 0)

    @property
    @abstractmethod
    def start(self) -> tuple[int, ...]:
        """First observation of every episode, but for what shows its fact."""

    @abstractmethod
    def goal(self, task_id: int) -> tuple[int, ...]:
        """What distinguishes a task from the others of the family, as whole numbers.

        Raises ``ValueError`` for an id outside the whole family.
        """

    @abstractmethod
    def optimal_return(self, task_id: int) -> float:
        """Greatest expected sum of rewards of one episode; the mean over a task's facts."""

    def episode_optimum(self, goals: IntArray, facts: IntArray) -> FloatArray:
        """Greatest expected sums of rewards (n,) of episodes that need ``facts`` (n,), float32.

        Only called for families whose tasks have several facts.
        """
        raise NotImplementedError

    @abstractmethod
    def describe(self, task_id: int) -> str:
        """The task in words, for tables and messages."""

    def short_name(self, task_id: int) -> str:
        """The task in a few words, for legends."""
        return self.describe(task_id)

    def landmarks(self, task_id: int) -> dict[str, Place]:
        """What a drawing of the task marks, by name."""
        goal = self.goal(task_id)
        return {name: (goal[part][0], goal[part][1]) for name, part in self.hidden_places.items()}

    @property
    def probed_places(self) -> Mapping[str, slice]:
        """What a probe of latents looks for: parts of :meth:`goal`, a row and a column for each place."""
        return self.hidden_places

    def place_needed(self, states: IntArray) -> IntArray:
        """Which of several places of one kind counts, by observations (..., fields): numbers (...)."""
        return states[..., 0] * 0

    @abstractmethod
    def optimal_actions(
        self, goals: IntArray, states: IntArray, hidden: IntArray, steps_left: int | IntArray
    ) -> IntArray:
        """Actions (n,) of a policy that reaches the optimum; arguments as for :meth:`transition`.

        ``steps_left`` of the episode are to be taken, the next one included; (n,) where :attr:`ends_early`.
        """

    @abstractmethod
    def transition(
        self,
        goals: IntArray,
        states: IntArray,
        hidden: IntArray,
        actions: IntArray,
        noise: NoiseArray | None = None,
    ) -> tuple[IntArray, FloatArray, IntArray]:
        """Step any number of environments at once; pure, the inputs are not changed.

        Args:
            goals: (n, numbers in a goal), from :meth:`goals`.
            states: (n, fields), what was observed.
            hidden: (n,) below ``n_hidden_states``; see :meth:`begin`.
            actions: (n,) integers below ``spaces.n_actions``.
            noise: (n,) from [0, 1), where :attr:`is_random`.

        Returns:
            next states (n, fields) int64, rewards (n,) float32, ``hidden`` afterwards (n,) int64.
        """

    def noise_cuts(
        self,
        goals: IntArray,  # noqa: ARG002
        states: IntArray,  # noqa: ARG002
        hidden: IntArray,  # noqa: ARG002
        actions: IntArray,  # noqa: ARG002
    ) -> NoiseArray | None:
        """Numbers (n, k), ascending, at which :meth:`transition`'s ``noise`` makes a difference.

        From one of them up to, but without, the next one all noise leads to the same; exactly so
        (:func:`cad.envs.noise.smallest_reaching`).  Only called where :attr:`is_random`.  With it such
        environments can step on a GPU (:mod:`cad.envs.tabled`); None, the default: on the CPU alone.  A
        class that overrides :meth:`transition` of another says it again.
        """
        return None

    def terminates(self, goals: IntArray, states: IntArray, hidden: IntArray) -> BoolArray:
        """Whether episodes end (n,) bool, now that a step has led to ``states`` and ``hidden``.

        Only called where :attr:`ends_early`; arguments as for :meth:`transition`, after the step.
        """
        raise NotImplementedError

    def environments(
        self, task_ids: npt.ArrayLike, keys: Keys | None = None, loads: Sequence[int] | None = None
    ) -> Environments:
        """Environments that are stepped together; see :class:`~cad.envs.batched.BatchedEnv`."""
        if self.ends_early:
            from cad.envs.varying import VaryingEnv

            return VaryingEnv(self, task_ids, keys, loads)
        from cad.envs.batched import BatchedEnv

        return BatchedEnv(self, task_ids, keys, loads)

    @property
    def tried_tasks(self) -> tuple[int, ...]:
        """Tasks whose environments show, before anything runs, whether those of all can be made."""
        return self.task_ids[:1]

    @property
    def codec(self) -> AnyCodec:
        """Between observations and actions as Gymnasium's spaces have them, and ours."""
        from cad.envs.foreign import PlainCodec

        return PlainCodec(self.spaces)

    def goals(self, task_ids: npt.ArrayLike) -> IntArray:
        """What :meth:`transition` needs of many tasks: their goals, (n, numbers in a goal) int64."""
        import numpy as np

        ids = np.asarray(task_ids, dtype=np.int64).ravel()
        unique, inverse = np.unique(ids, return_inverse=True)
        table: IntArray = np.array([self.goal(int(task)) for task in unique], dtype=np.int64)
        return table[inverse.ravel()]

    def begin(self, goals: IntArray, facts: IntArray) -> tuple[IntArray, IntArray]:  # noqa: ARG002
        """First states (n, fields) int64, and their hidden part (n,) int64, of episodes that need ``facts``.

        Args:
            goals: (n, numbers in a goal), from :meth:`goals`.
            facts: (n,) int64 below ``n_facts``.
        """
        import numpy as np

        states = np.tile(np.array(self.start, dtype=np.int64), (len(facts), 1))
        return states, np.zeros(len(facts), dtype=np.int64)

    def new_learner(self, name: str | None, n: int, epsilon: float, rng: Draws) -> ScriptedLearner:
        """The scripted learner of a name (None: the first) for ``n`` environments."""
        make = self.scripted_learners[name or next(iter(self.scripted_learners))]
        return make(self, n, epsilon, rng)

    def shuffled(self, seed: int) -> list[int]:
        """The tasks in use in the order by which they are split.

        Public Darkroom code shuffles tasks in canonical order this way, so that figures compare.
        """
        order = list(self.task_ids)
        random.Random(seed).shuffle(order)
        return order

    def _check_id(self, task_id: int) -> None:
        if not 0 <= task_id < self.config.family_size:
            raise ValueError(
                f"task id {task_id}: {self.config.in_words()} has ids 0 to {self.config.family_size - 1}"
            )


AnyFamily = TaskFamily[Any]
