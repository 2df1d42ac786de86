"""What every config section is: frozen, strict about its keys; and the number types that fields share."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from cad.config.keys import REASON


def at_most(largest: float, why: str) -> Any:
    """An upper bound that messages give with its reason."""
    return Field(le=largest, json_schema_extra={REASON: why})


COUNT = at_most(10**9, "more can neither be held nor waited for")
AMOUNT = at_most(1e9, "more leaves the range of 32-bit numbers")
_SEED = at_most(2**63 - 1, "random generators take whole numbers of 63 bits")
_TRAINING_SEED = at_most(10**13, "an update draws with seed x 1,000,003 + update, in 64 bits")

PositiveInt = Annotated[int, Field(gt=0), COUNT]
NonNegativeInt = Annotated[int, Field(ge=0), COUNT]
PositiveFloat = Annotated[float, Field(gt=0), AMOUNT]
NonNegativeFloat = Annotated[float, Field(ge=0), AMOUNT]
Seed = Annotated[int, Field(ge=0), _SEED]
TrainingSeed = Annotated[int, Field(ge=0), _TRAINING_SEED]
Probability = Annotated[float, Field(ge=0, lt=1)]


class Section(BaseModel):
    """Base of all config sections.  A field's description is its documentation."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False, defer_build=True
    )
