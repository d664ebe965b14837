"""What users ask of a study that runs, in a file of its folder which its driver reads: the service writes it.

A file, as the service and the driver share the folder and nothing else; it stands there until it is done, whatever is
killed meanwhile.
"""

from collections.abc import Mapping
from dataclasses import field
from pathlib import Path

from pydantic import TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from lncis import files

REQUESTS = "requests.json"


@dataclass(frozen=True, kw_only=True)
class Requests:
    """What is asked for now."""

    drain: bool = False
    """Finish the trials that run, and start no other."""
    stop: Mapping[str, str] = field(default_factory=dict)
    """Name of a trial to end -> the user who asked for it."""


_FORM = TypeAdapter(Requests)


def read_requests(study: Path) -> Requests:
    """Return what is asked of the study in a folder; nothing where the file is missing or cannot be read."""
    try:
        return _FORM.validate_json((study / REQUESTS).read_bytes())
    except (OSError, ValidationError):
        return Requests()


def write_requests(study: Path, requests: Requests) -> None:
    """Ask for this, and for nothing else; OSError where the folder cannot be written."""
    if read_requests(study) != requests:
        files.replace(study / REQUESTS, _FORM.dump_json(requests))
