"""Random numbers of scripted learners: each task's from a generator of its own, if several learn together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from cad.envs.arrays import IntArray


class Draws(Protocol):
    """What a learner may ask for, a row an environment: part of NumPy's ``Generator``, which is one.

    Every call gives numbers for all environments, also where some have no use for them: which numbers a task
    gets must not depend on the others.
    """

    def random(self, size: Any, /) -> Any:
        """Uniform numbers in [0, 1) of a shape (environments, ...)."""

    def integers(self, low: int, high: int, size: Any, /) -> Any:
        """Whole numbers in [low, high) of a shape (environments, ...)."""

    def standard_gamma(self, shape: Any, /) -> Any:
        """Gamma numbers for an array (environments, ...) of shape parameters."""


class TaskDraws:
    """Rows of several tasks, ``rows`` each, one after the other: what each task's generator alone gives."""

    def __init__(self, generators: Sequence[np.random.Generator], rows: int) -> None:
        self._generators, self._rows = generators, rows

    def random(self, size: int | Sequence[int], /) -> Any:
        """See :meth:`Draws.random`."""
        return self._each(lambda generator, shape: generator.random(shape), size)

    def integers(self, low: int, high: int, size: int | Sequence[int], /) -> Any:
        """See :meth:`Draws.integers`."""
        return self._each(lambda generator, shape: generator.integers(low, high, shape), size)

    def standard_gamma(self, shape: npt.NDArray[np.float64], /) -> npt.NDArray[np.float64]:
        """See :meth:`Draws.standard_gamma`."""
        import numpy as np

        parts = zip(self._generators, np.split(shape, len(self._generators)), strict=True)
        return np.concatenate([generator.standard_gamma(part) for generator, part in parts])

    def _each(
        self, draw: Callable[[np.random.Generator, tuple[int, ...]], Any], size: int | Sequence[int]
    ) -> Any:
        import numpy as np

        n, *rest = (size,) if isinstance(size, int) else size
        if n != len(self._generators) * self._rows:
            raise ValueError(f"{n} rows for {len(self._generators)} tasks of {self._rows}")
        return np.concatenate([draw(generator, (self._rows, *rest)) for generator in self._generators])


def explored(draws: Draws, actions: IntArray, epsilon: float, n_actions: int) -> IntArray:
    """``actions`` (n,), of which a share ``epsilon`` is replaced by random ones."""
    import numpy as np

    random = draws.random(len(actions)) < epsilon
    mixed: IntArray = np.where(random, draws.integers(0, n_actions, len(actions)), actions)
    return mixed
