"""What all parts of the wire schema share."""

from datetime import UTC, datetime
from typing import Annotated

from pydantic import BaseModel, ConfigDict, PlainSerializer, WithJsonSchema


def iso(moment: datetime) -> str:
    """Return a time as ISO 8601 in UTC, with milliseconds."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


Time = Annotated[
    datetime,
    PlainSerializer(iso, when_used="json"),
    WithJsonSchema({"type": "string", "format": "date-time"}),
]
"""A moment; also read from seconds since 1970, as the database keeps it."""


class Document(BaseModel):
    """A part of an answer; read from JSON or from an object with the same attributes, such as a row."""

    model_config = ConfigDict(frozen=True, from_attributes=True, use_attribute_docstrings=True)
