"""A section whose keys depend on one of them: the kind of a model, the name of a task family."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Union

from pydantic import Discriminator, Tag

from cad.config.section import Section


def section_by_kind(classes: Mapping[str, type[Section]], tag: str, default: str) -> Any:
    """The type of a section that is one of ``classes``, chosen by its key ``tag``.

    Every class has a field ``tag`` that takes its own name alone.  Where the key is missing the
    section is the ``default`` one's.
    """

    def kind_of(value: object) -> str | None:
        if isinstance(value, Mapping):
            return str(value.get(tag, default))
        return getattr(value, tag, None)

    members = tuple(Annotated[cls, Tag(name)] for name, cls in classes.items())
    # A union of a computed number of members has no other spelling.
    return Annotated[Union[members], Discriminator(kind_of)]  # noqa: UP007
