"""The sensitivity check, carried out: probes on the worker groups of a study, before its first trial."""

from typing import Any

import ray

from lncis.execution.tasks import Progress, State, Task
from lncis.studies import sensitivity
from lncis.studies.study_run import StudyRun


class SensitivityCheck:
    """The probes of a study's parameters; `attend` judges each parameter as soon as its probes are through."""

    def __init__(self, run: StudyRun, queue: Any) -> None:
        """Submit the probes to `queue`, the handle of a TaskQueue actor; none where the spec wants no check."""
        self._run, self._queue = run, queue
        self._unjudged = sensitivity.probed_parameters(run.spec) if run.spec.sensitivity_check else []
        for parameter in self._unjudged:
            for task in parameter.probes:
                ray.get(queue.submit.remote(task.key, [task]))

    def attend(self) -> None:
        """Judge what can be judged now; ConfigError for a parameter that changes nothing."""
        while self._unjudged:
            found = [self._progress(task) for task in self._unjudged[0].probes]
            if any(progress.state in (State.WAITING, State.RUNNING) for progress in found):
                return
            parameter = self._unjudged.pop(0)
            if all(progress.state is State.DONE for progress in found):  # else its trial will meet the same, and say it
                note = sensitivity.remark_on(parameter, [progress.records[0] for progress in found])
                if note:
                    self._run.note(note)

    def _progress(self, task: Task) -> Progress:
        return ray.get(self._queue.progress.remote(task.key))  # type: ignore[no-any-return]
