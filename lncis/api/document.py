"""What all parts of the wire schema share."""

from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, PlainSerializer, WithJsonSchema


def iso(moment: datetime) -> str:
    """Return a time as ISO 8601 in UTC, with milliseconds."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


Time = Annotated[
    datetime,
    PlainSerializer(iso, when_used="json"),
    WithJsonSchema({"type": "string", "format": "date-time"}),
]
"""A moment; also read from seconds since 1970, as the database keeps it."""


def _whole(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


WHOLE = BeforeValidator(_whole)
"""Marks a strict integer of a request for which 3.0 is 3: JSON has one kind of number."""


class Document(BaseModel):
    """A part of an answer; read from JSON or from an object with the same attributes, such as a row."""

    model_config = ConfigDict(frozen=True, from_attributes=True, use_attribute_docstrings=True)
