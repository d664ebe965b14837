"""The sensitivity check, carried out: probes on the worker groups of a study, before its first trial."""

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import ray
from ray.exceptions import RayError

from lncis.errors import ConfigError
from lncis.execution.queue import POLL_SECONDS, State, Task
from lncis.metrics import Record
from lncis.studies import sensitivity
from lncis.studies.spec import StudySpec


class SensitivityCheck(threading.Thread):
    """Probes the parameters of a study; one that is dead closes the queue, before the trials that wait in it begin."""

    def __init__(self, spec: StudySpec, queue: Any, on_note: Callable[[str], None]) -> None:
        super().__init__(name="parameter-check", daemon=True)
        self._queue, self._on_note = queue, on_note
        self._error: ConfigError | None = None
        self._parameters = sensitivity.probed_parameters(spec)
        for parameter in self._parameters:
            for task in parameter.probes:
                ray.get(queue.submit.remote(task.key, [task]))
        self.start()

    def run(self) -> None:
        """Judge each parameter as soon as its probes are through."""
        with suppress(RayError):  # the study is over before the check
            for parameter in self._parameters:
                records = [record for task in parameter.probes if (record := self._record(task))]
                try:
                    note = sensitivity.remark_on(parameter, records) if len(records) == len(parameter.probes) else None
                except ConfigError as error:
                    self._error = error
                    ray.get(self._queue.close.remote(str(error)))
                    return
                if note:
                    self._on_note(note)

    def _record(self, task: Task) -> Record | None:
        while True:
            progress = ray.get(self._queue.progress.remote(task.key))
            if progress.state is State.DONE:
                return dict(progress.records[0])
            if progress.state in (State.FAILED, State.CLOSED):  # its trial will meet the same, and say it
                return None
            time.sleep(POLL_SECONDS)

    def result(self) -> None:
        """Raise ConfigError if a parameter is dead."""
        if self._error:
            raise self._error
