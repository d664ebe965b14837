"""Studies whose journals are made up, event by event."""

from pathlib import Path

from lncis import documents
from lncis.studies.record.journal import (
    End,
    EpochFinished,
    SessionEnded,
    SessionStarted,
    TrialEnded,
    TrialStarted,
    WorkerGroupsUp,
)
from lncis.studies.report.result import StudyResult, from_journal
from lncis.studies.spec import StudySpec, Trial

METRIC, BOXES, TEST = "val/segm_AP", "val/bbox_AP", "test/segm_AP"
CE = {"loss": {"type": "cross_entropy"}}
FINISHED, PRUNED, FAILED = End


def study_spec(**fields) -> StudySpec:
    """Four epochs, the first two of them shared by all trials of a seed, unless `fields` say otherwise."""
    document = {
        "name": "s",
        "base": {"schedule": {"epochs": 4}},
        "search": {"loss.gamma": {"type": "categorical", "choices": [4.0, 5.0, 6.0]}},
        "baselines": {"ce": CE},
        "seeds": [0, 1],
        **fields,
    }
    return documents.parse(StudySpec, document, source="test")


class Book:
    """Writes the journal of a made-up study: an epoch takes ten seconds, of which workers train eight."""

    def __init__(self, spec: StudySpec, worker_groups: int = 2) -> None:
        self.spec, self.clock, self.events = spec, 0.0, []
        self.start_session(worker_groups)

    def start_session(self, worker_groups: int = 2) -> None:
        self.events.append(
            SessionStarted(
                time=self.clock,
                worker_groups=worker_groups,
                versions={"lncis.version.torch": "2.11.0"},
                code="c",
                storage="",
            )
        )
        self.events.append(WorkerGroupsUp(time=self.clock, worker_groups=worker_groups))

    def end_session(self, lost: float = 0.0) -> None:
        self.events.append(SessionEnded(time=self.clock, reason="", lost_seconds=lost))

    def start(self, trial: Trial, reused: list[str] | None = None) -> None:
        schedule = trial.config.schedule
        stages = {f"one-{trial.replicate}": schedule.switch_epoch, f"two-{trial.name}": schedule.epochs}
        names = ("configuration", "overrides", "seed", "noise_seed", "fold", "baseline")
        fields = {name: getattr(trial, name) for name in names}
        self.events.append(TrialStarted(time=self.clock, stages=stages, reused=reused or [], **fields))

    def epoch(self, trial: Trial, epoch: int, **figures: float) -> None:
        self.clock += 10
        record = {"epoch": float(epoch), "seconds": 8.0, "lr": 1e-3, **figures}
        self.events.append(EpochFinished(time=self.clock, trial=trial.name, record=record, reused=False))

    def end(self, trial: Trial, end: End = FINISHED, reason: str = "") -> None:
        self.events.append(TrialEnded(time=self.clock, trial=trial.name, end=end, reason=reason))

    def train(self, trial: Trial, value: float, *, until: int | None = None, **further: float) -> None:
        """From the first epoch to the last, or to where it is pruned; test is one point above val."""
        self.start(trial)
        last = trial.config.schedule.epochs
        for epoch in range(1, (until or last) + 1):
            share = epoch / last
            clean = {TEST: value + 1} if epoch == last else {}
            self.epoch(trial, epoch, **{METRIC: value * share, **clean, **(further if epoch == last else {})})
        if until is None:
            self.end(trial)
        else:
            self.end(trial, PRUNED, f"asha: behind the others after epoch {until}")

    def result(self, directory: Path = Path("runs")) -> StudyResult:
        return from_journal("s-1", self.spec, directory, self.events)
