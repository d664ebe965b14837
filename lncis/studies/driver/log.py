"""What the process that drives a study writes into the study's logs: its own doings, and what its workers sent."""

import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from lncis.errors import LncisError
from lncis.execution.tasks import Task
from lncis.studies.record.journal import End
from lncis.studies.record.logs import DRIVER, LOGS, Log
from lncis.studies.spec import Trial
from lncis.studies.study_run import Observer

LOOK_SECONDS = 1.0
"""Between two questions for what workers have logged."""


class DriverLog(Observer):
    """The logs of a study while a process drives it; `text` is the stream of the driver's own."""

    def __init__(self, study: Path) -> None:
        self._folder = study / LOGS
        self.text = Log(self._folder, DRIVER)
        self._live = False
        self._last_stage: dict[str, str] = {}  # trial -> key
        self._next_look = 0.0

    def on_session_start(self) -> None:
        """From now on events happen, and are not read again."""
        self._live = True

    def on_trial_start(self, trial: Trial, tasks: Sequence[Task]) -> None:
        """Write that a trial begins, and which stages it is."""
        self._last_stage[trial.name] = tasks[-1].key
        if self._live:
            self.text.line(f"trial {trial.name} begins: {trial.label}; stages {', '.join(task.key for task in tasks)}")

    def on_trial_end(self, trial: Trial, end: End, reason: str) -> None:
        """Write how a trial ended; what is not well also into its own log."""
        stage = self._last_stage.pop(trial.name, "")
        if self._live:
            ended = f"trial {trial.name}: {end}{f', {reason}' if reason else ''}"
            self.text.line(ended)
            if reason and stage:
                Log(self._folder, stage).line(ended)

    def on_note(self, text: str) -> None:
        """Write a remark."""
        self.text.line(text)

    @contextmanager
    def session(self, what: str) -> Iterator[None]:
        """Within the block a session goes on; why it ends is written, with the traceback where that is a fault."""
        self.text.line(what)
        try:
            yield
        except BaseException as error:
            known = isinstance(error, LncisError | KeyboardInterrupt)
            why = str(error) or type(error).__name__
            self.text.line(f"stopped: {why}" if known else f"stopped: {traceback.format_exc()}")
            raise
        else:
            self.text.line("nothing is left to do")
        finally:
            self.text.close()

    def take(self, ask: Callable[[], Sequence[tuple[str, str]]], *, at_once: bool = False) -> None:
        """Write what workers have logged, as `ask` returns it: key of the task, or none, and text.

        It is asked every LOOK_SECONDS, however often this is called, unless `at_once`.
        """
        now = time.monotonic()
        if not at_once and now < self._next_look:
            return
        self._next_look = now + LOOK_SECONDS
        texts: dict[str, list[str]] = {}
        for key, text in ask():
            texts.setdefault(key, []).append(text)
        for key, lines in texts.items():
            text = "".join(f"{line}\n" for line in lines)
            if not key or Path(key).name != key:  # of the check of parameters, whose tasks are no stages
                self.text.write(text)
                continue
            with Log(self._folder, key) as log:
                log.write(text)
