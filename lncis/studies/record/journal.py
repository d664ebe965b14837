"""The journal of a study: everything that happened to it, a JSON line each, in one file that only grows.

A study that was killed goes on from it; MLflow, the report and the service read it (history.py). A line counts once
it ends in a newline, so a process killed while it writes leaves nothing to repair. docs/journal.md has the rules.
"""

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError

from lncis import files
from lncis.config import Fold
from lncis.errors import StudyError
from lncis.metrics import Record
from lncis.studies.spec import Replicate, StudySpec, Trial, trial_name

JOURNAL = "journal.jsonl"


class End(StrEnum):
    """How a trial ended."""

    FINISHED = "finished"
    PRUNED = "pruned"
    FAILED = "failed"


@dataclass(frozen=True, kw_only=True)
class SessionStarted:
    """A process began to drive the study: its first one, and one each time it is resumed."""

    event: Literal["session_started"] = "session_started"
    time: float = field(default_factory=time.time)
    worker_groups: int
    """The most worker groups it may use."""
    versions: dict[str, str]
    """Packages, and the commit if known."""
    code: str
    """Digest of the code that computes trainings (stages.code_digest)."""
    storage: str
    """URL below which the stages are published, without secrets; empty if they are in the study's folder."""
    data: dict[str, str] = field(default_factory=dict)
    """Digests of what the base trains on (lncis.data_identity)."""


@dataclass(frozen=True, kw_only=True)
class SessionEnded:
    """That process ended in an orderly way; one that was killed leaves no such event."""

    event: Literal["session_ended"] = "session_ended"
    time: float = field(default_factory=time.time)
    reason: str
    """Why it ended before the study was complete; else empty."""
    lost_seconds: float
    """Training time of worker groups that was lost when workers died."""
    spent: str = ""
    """The limits of the budget that were reached, such as `epochs: 50 of 50`, where that ended it; else empty."""


@dataclass(frozen=True, kw_only=True)
class WorkerGroupsUp:
    """From now on the study holds so many worker groups. A session writes the first one before any is up: 0."""

    event: Literal["worker_groups_up"] = "worker_groups_up"
    time: float = field(default_factory=time.time)
    worker_groups: int


@dataclass(frozen=True, kw_only=True)
class Observation:
    """A configuration of an earlier study, and its mean in each objective."""

    overrides: dict[str, Any]
    values: list[float]


@dataclass(frozen=True, kw_only=True)
class WarmStarted:
    """The sampler began with the results of an earlier study, as they were then; that study may have gone on since."""

    event: Literal["warm_started"] = "warm_started"
    time: float = field(default_factory=time.time)
    observations: list[Observation]


@dataclass(frozen=True, kw_only=True)
class TrialStarted:
    """The tasks of a trial were submitted to the workers for the first time."""

    event: Literal["trial_started"] = "trial_started"
    time: float = field(default_factory=time.time)
    configuration: int
    overrides: dict[str, Any]
    seed: int
    noise_seed: int | None
    fold: Fold | None = None
    baseline: str | None
    stages: dict[str, int]
    """Key of each of its stages, in order -> the last epoch of the stage."""
    reused: list[str]
    """Keys of those that the stage store had finished."""

    @property
    def trial(self) -> str:
        """The name of the trial."""
        return trial_name(self.configuration, self.replicate)

    @property
    def replicate(self) -> Replicate:
        """What tells the trial from the others of its configuration."""
        return Replicate(self.seed, self.noise_seed, self.fold)

    def stage_of(self, epoch: int) -> str:
        """Return the key of the stage that an epoch, counted from 1, is part of; StopIteration if it is in none."""
        return next(key for key, until in self.stages.items() if epoch <= until)


@dataclass(frozen=True, kw_only=True)
class EpochFinished:
    """A trial has one more epoch, trained for it or for another trial that shares the stage."""

    event: Literal["epoch_finished"] = "epoch_finished"
    time: float = field(default_factory=time.time)
    trial: str
    record: Record
    reused: bool
    """A worker found it published, by an earlier study, or by an earlier session for another trial."""


@dataclass(frozen=True, kw_only=True)
class TrialEnded:
    """A trial ended."""

    event: Literal["trial_ended"] = "trial_ended"
    time: float = field(default_factory=time.time)
    trial: str
    end: End
    reason: str
    """Why it failed or was pruned; else empty."""


@dataclass(frozen=True, kw_only=True)
class TrialRetried:
    """A failed trial will run again, from its last checkpoint."""

    event: Literal["trial_retried"] = "trial_retried"
    time: float = field(default_factory=time.time)
    trial: str


Event = (
    SessionStarted
    | SessionEnded
    | WorkerGroupsUp
    | WarmStarted
    | TrialStarted
    | EpochFinished
    | TrialEnded
    | TrialRetried
)

_EVENT: TypeAdapter[Event] = TypeAdapter(Annotated[Event, Field(discriminator="event")])


class Journal:
    """The journal of a study's folder, open for writing."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / JOURNAL
        self.events = read(folder)
        """All events, also those of earlier sessions, in order."""
        self._unwritten = b""
        self._file = self._path.open("ab", buffering=0)
        self._end = sum(len(line) for line in _whole_lines(self._path))

    def append(self, event: Event) -> None:
        """Add an event, on the disk on return; a full disk delays it until a later call finds room."""
        self.events.append(event)
        self._unwritten += json.dumps(asdict(event)).encode() + b"\n"
        self._write()

    def _write(self) -> None:
        try:
            self._file.truncate(self._end)  # what a killed process, or a full disk, left of a line
            written = 0
            while written < len(self._unwritten):
                written += self._file.write(self._unwritten[written:])
            os.fsync(self._file.fileno())
        except OSError:
            return
        self._end, self._unwritten = self._end + written, b""

    def close(self) -> None:
        """Close the file; StudyError if something could not be written."""
        if self._unwritten:
            self._write()
        self._file.close()
        if self._unwritten:
            raise StudyError(
                f"{self._path} could not be written to its end: is the disk full? Free some space and resume the "
                "study: what is missing is trained again from the last checkpoints"
            )


def read(folder: Path) -> list[Event]:
    """Return the events in a study's folder, none if it has no journal; StudyError where a line is no event."""
    return read_on(folder, 0)[0]


def read_on(folder: Path, offset: int) -> tuple[list[Event], int]:
    """Return the events from a byte offset on, and the offset of the next one; StudyError as in `read`."""
    path = folder / JOURNAL
    events = []
    for line in _whole_lines(path, offset):
        try:
            events.append(_EVENT.validate_json(line))
        except ValidationError as error:
            where = f"{path}, line {_line_number(path, offset)}"
            raise StudyError(f"{where} is not an event of a study: {line[:60]!r}") from error
        offset += len(line)
    return events, offset


def _whole_lines(path: Path, offset: int = 0) -> list[bytes]:
    if not path.exists():
        return []
    with path.open("rb") as file:
        file.seek(offset)
        return [line for line in file.read().splitlines(keepends=True) if line.endswith(b"\n")]


def _line_number(path: Path, offset: int) -> int:
    return path.read_bytes()[:offset].count(b"\n") + 1


def trial_of(spec: StudySpec, event: TrialStarted) -> Trial:
    """Return the trial that started with an event."""
    return spec.trial(event.configuration, event.overrides, event.replicate, baseline=event.baseline)


@contextmanager
def sole_driver(folder: Path) -> Iterator[None]:
    """Let no other process drive the study within the block; StudyError if one does. A killed process holds no lock."""
    lock = files.lock(folder / ".driver")
    try:
        lock.acquire()
    except TimeoutError as error:
        raise StudyError(f"study {folder.name} is being run by another process; stop that one first") from error
    try:
        yield
    finally:
        lock.release()
