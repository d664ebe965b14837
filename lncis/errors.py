"""Every error that lncis raises on purpose.

::

    LncisError              catch this to catch all of them
    ├── ConfigError         a YAML file, a request body or a Python config is wrong
    ├── DataError           a data set is missing, corrupt or not what it claims
    ├── CheckpointError     a checkpoint is missing, truncated or of another training
    ├── DivergedError       a training loss became NaN or infinite
    ├── StorageError        an object at a URL cannot be reached, written or read, or is damaged
    │   └── StorageAwayError    a later retry may succeed
    ├── StudyError          a study could not run: its workers, trials or cluster failed
    │   └── BudgetError         its budget is spent
    └── ServiceError        the service refused a request, or does not answer

A message names the place, the value and the remedy. The command line prints it on one line, without a
traceback, and exits with `exit_code`: 2 where the user can correct the input, 3 where a budget is spent, 1 otherwise.
"""


def printable(text: str) -> str:
    """Return text for a message: control characters, which a name may hold, as their escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class LncisError(Exception):
    """Base of all errors below."""

    exit_code = 1


class ConfigError(LncisError, ValueError):
    """A configuration does not validate; `problems` holds one line per mistake, all of them."""

    exit_code = 2

    def __init__(self, source: str, problems: list[str]) -> None:
        self.source = source
        self.problems = problems
        super().__init__(source, problems)

    def __str__(self) -> str:
        return "\n".join(f"{self.source}: {problem}" for problem in self.problems)


class DataError(LncisError):
    """Data are missing, corrupt or inconsistent; raised before any training starts."""

    exit_code = 2


class CheckpointError(LncisError):
    """A checkpoint cannot be read, or belongs to a different training."""


class DivergedError(LncisError):
    """A loss is NaN or infinite; this training cannot go on, others can."""


class StorageError(LncisError):
    """A storage (`s3://...`) cannot be reached or refuses, or an object there is not what was written."""


class StorageAwayError(StorageError):
    """A storage failed for about a minute, with errors that a later retry may overcome."""


class StudyError(LncisError):
    """A study could not run; the message says which part failed and what remains on disk."""


class BudgetError(StudyError):
    """A study has spent its budget; what it found remains, and with a larger budget it goes on.

    `reached` are the limits, such as `epochs: 50 of 50`.
    """

    exit_code = 3

    def __init__(self, message: str, *, reached: str) -> None:
        self.reached = reached
        super().__init__(message)


class ServiceError(LncisError):
    """The service refused a request, or does not answer.

    `status` is the answer's, None without one; `problems` are the mistakes it names, each with its dotted path;
    `legal` are the actions that the study allows instead.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        problems: list[str] | None = None,
        legal: list[str] | None = None,
    ) -> None:
        self.status, self.problems, self.legal = status, problems or [], legal or []
        self.exit_code = 2 if status in (400, 404, 409, 413, 415, 422) else 1
        super().__init__("; ".join([message, *self.problems]))
