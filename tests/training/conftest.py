"""What tests of trainings share."""

from __future__ import annotations

import pytest

from cad.training.packed.captured import CapturedStack


@pytest.fixture
def captured(monkeypatch) -> list[CapturedStack]:
    """Packs compute their updates as on a GPU, without graphs; those that were made."""
    made = []

    def stack(trainings, **_) -> CapturedStack:
        assert CapturedStack.fits(trainings)
        made.append(CapturedStack(trainings))
        return made[-1]

    monkeypatch.setattr("cad.training.packed.loop.stack_of", stack)
    return made
