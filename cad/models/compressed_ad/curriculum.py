"""The depth curriculum: training unrolls one segment at first, then two, four, ... and at last all."""

from __future__ import annotations


class DepthCurriculum:
    """Segments of a training window, by update.

    A model that cannot yet read one segment learns nothing from latents of seven: what is easy comes first,
    and updates of few segments cost less.
    """

    def __init__(self, segments: int, share: float, n_updates: int) -> None:
        """``segments`` after the first ``share`` of ``n_updates``, which shorter windows share equally."""
        self._counts = [1 << k for k in range((segments - 1).bit_length())] if share else []
        self._counts.append(segments)
        self._updates = share * n_updates

    def segments(self, update: int) -> int:
        """Segments at an update, counted from 0."""
        if update >= self._updates:
            return self._counts[-1]
        return self._counts[int(update / self._updates * (len(self._counts) - 1))]
