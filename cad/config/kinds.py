"""A section whose keys depend on one of them: the kind of a model, the name of a task family."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Union

from pydantic import Discriminator, GetCoreSchemaHandler, GetJsonSchemaHandler, Tag, ValidationError
from pydantic_core import InitErrorDetails, PydanticKnownError, core_schema

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


class SectionByName:
    """Annotation of a section whose class is looked up by its key ``tag`` when a config is read.

    It takes what a union of all classes takes, reports errors at the same places, and has the same JSON
    schema; yet only the class that is named is imported.

    Args:
        base: what all classes derive from.
        tag: the key; where it is missing the section is the ``default`` one's.
        default: a name.
        find: the class of a name; ``KeyError`` where there is none, ``ValueError`` that says what is wrong
            with one that cannot be used.
        known: all classes that are known by now, by name; for messages and schemas.
    """

    def __init__(
        self,
        base: type[Section],
        tag: str,
        default: str,
        find: Callable[[str], type[Section]],
        known: Callable[[], Mapping[str, type[Section]]],
    ) -> None:
        self._base, self._tag, self._default = base, tag, default
        self._find, self._known = find, known

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        return core_schema.with_info_plain_validator_function(self._validate)

    def __get_pydantic_json_schema__(
        self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        options = []
        for name, cls in self._known().items():
            cls.model_rebuild()
            option = handler(cls.__pydantic_core_schema__)
            whole = handler.resolve_ref_schema(option)
            key = whole["properties"][self._tag]
            if key.get("const") != name:  # a class that leaves its name to where it is registered
                key = {**key, "const": name, "default": name}
                option = {**whole, "properties": {**whole["properties"], self._tag: key}}
            options.append(option)
        return {"oneOf": options}

    def _validate(self, value: object, info: core_schema.ValidationInfo) -> Section:
        if isinstance(value, self._base):
            return value
        if not isinstance(value, Mapping):
            raise PydanticKnownError("model_type", {"class_name": self._base.__name__})
        name = value.get(self._tag, self._default)
        try:
            if not isinstance(name, str):
                raise KeyError(name)
            cls = self._find(name)
        except KeyError:
            names = ", ".join(map(repr, self._known()))
            raise PydanticKnownError(
                "union_tag_invalid", {"discriminator": self._tag, "tag": str(name), "expected_tags": names}
            ) from None
        except ValueError as error:
            raise self._at([_detail("value_error", (self._tag,), name, {"error": error})]) from None
        try:
            if info.mode == "json":  # strict, as what is around it: see cad.config.load
                return cls.model_validate_json(json.dumps(value), strict=True)
            return cls.model_validate(value)
        except ValidationError as error:
            raise self._at(
                [
                    _detail(each["type"], (name, *each["loc"]), each["input"], each.get("ctx", {}))
                    for each in error.errors(include_url=False)
                ]
            ) from None

    def _at(self, details: list[InitErrorDetails]) -> ValidationError:
        return ValidationError.from_exception_data(self._base.__name__, details)


def _detail(
    kind: str, loc: tuple[int | str, ...], value: object, context: dict[str, Any]
) -> InitErrorDetails:
    return InitErrorDetails(type=kind, loc=loc, input=value, ctx=context)
