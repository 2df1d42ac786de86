"""A stop that comes in the middle of something."""

from __future__ import annotations

from cad.interrupt import StopFlag


class LaterStop(StopFlag):
    """Asks for a stop when it has been asked so often."""

    def __init__(self, asked: int) -> None:
        super().__init__()
        self._left = asked

    def __call__(self) -> bool:
        self._left -= 1
        if self._left <= 0:
            self.request()
        return super().__call__()
