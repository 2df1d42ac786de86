"""What scores are: shares of the optimum, shares of a return that somebody stated, or returns as they are."""

from __future__ import annotations

from dataclasses import dataclass, replace

from cad.envs.registry import task_family
from cad.schema import Config


@dataclass(frozen=True)
class Measure:
    """The words for scores.

    ``name`` is that of an axis; ``of`` follows a number in a sentence, with its space; ``unit`` is what a
    score of 1 is, empty where that means nothing; ``whole`` names a task's best return in a table.
    ``bounded``: whether no mean can be below 0 or above 1.
    """

    name: str
    of: str
    unit: str
    whole: str
    bounded: bool = False

    def level(self, share: float) -> str:
        """A score as a level that is reached, such as ``90% of the optimum``; not of raw returns."""
        return f"{share:.0%}{self.of}"

    @property
    def noun(self) -> str:
        """What a score is, in a sentence."""
        return "normalised return" if self.unit else "return"

    @property
    def divided(self) -> str:
        """What is done with returns, after the noun: ``divided by each task's optimum``."""
        return f"divided by {self.whole}" if self.unit else "as it is"


OPTIMUM = Measure("return / optimum", " of the optimum", "optimum", "each task's optimum", bounded=True)
_UNBOUNDED = replace(OPTIMUM, bounded=False)
"""Where rewards may be negative, or all is counted from the return of random actions, which may be worse."""
STATED = Measure(
    "return / reference", " of the reference return", "reference return", "the stated reference return"
)
RAW = Measure("return", "", "", "no return")


def measure_of(config: Config) -> Measure:
    """How the returns of a cell are given."""
    family = task_family(config.env)
    known = OPTIMUM if family.rewards_tell and not family.random_return else _UNBOUNDED
    return {"": RAW, STATED.unit: STATED}.get(family.best_in_words, known)
