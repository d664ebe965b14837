"""History against a second derivation, which looks through the whole list of events for every answer."""

import random

import pytest

from lncis.studies.record.history import History
from lncis.studies.record.journal import (
    End,
    EpochFinished,
    Event,
    SessionEnded,
    SessionStarted,
    TrialEnded,
    TrialRetried,
    TrialStarted,
    WarmStarted,
    WorkerGroupsUp,
)
from lncis.studies.report.cost import cost_of
from lncis.studies.spec import Resources, StudySpec

SPEC = StudySpec(
    name="s",
    search={"loss.gamma": {"type": "categorical", "choices": [4.0, 6.0]}},
    resources=Resources(num_workers=2),
)
SEEDS = range(40)


class RandomStudy:
    """A journal of sessions that end or are killed, with up to 12 trials that share, reuse, fail, retry and prune."""

    def __init__(self, seed: int) -> None:
        self.draw, self.now, self.events = random.Random(seed), 1000.0, list[Event]()
        self.running: dict[str, TrialStarted] = {}
        self.ended: dict[str, TrialStarted] = {}
        self.epochs: dict[str, int] = {}
        self.in_store: dict[str, bool] = {}  # drawn once for each stage
        if self.draw.random() < 0.5:
            self.add(WarmStarted, observations=[])
        for _ in range(self.draw.randint(1, 4)):
            self.session()

    def add(self, kind: type, **fields) -> None:
        self.now += self.draw.choice([0.0, 0.5, 3.25])
        self.events.append(kind(time=self.now, **fields))

    def session(self) -> None:
        for name in [name for name in self.ended if self.draw.random() < 0.2]:  # before the session says it started
            self.running[name] = self.ended.pop(name)
            self.add(TrialRetried, trial=name)
        self.prune(0.1)
        self.add(SessionStarted, worker_groups=3, versions={"lncis": "1"}, code="c", storage="")
        if self.draw.random() < 0.1:
            return  # killed while Ray starts
        self.add(WorkerGroupsUp, worker_groups=0)
        for _ in range(self.draw.randint(0, 60)):
            self.draw.choice([self.start, self.train, self.train, self.train, self.end, self.worker_groups])()
        if self.draw.random() < 0.6:
            reason = self.draw.choice(["", "KeyboardInterrupt"])
            self.add(SessionEnded, reason=reason, lost_seconds=self.draw.choice([0.0, 7.5]))

    def worker_groups(self) -> None:
        self.add(WorkerGroupsUp, worker_groups=self.draw.randint(0, 3))

    def start(self) -> None:
        number = len(self.epochs)
        if number == 12:
            return
        branch = self.draw.choice("ab")
        stages = {"root": 2, f"{branch}": 3, f"{branch}-{number}": 6}
        if self.draw.random() < 0.2:
            stages = {f"alone-{number}": 6}
        begun = {key for e in self.events if isinstance(e, TrialStarted) for key in e.stages}
        reused = [key for key in stages if self.stored(key, begun)]
        fields = {"configuration": number, "overrides": {}, "seed": 0, "noise_seed": None, "baseline": None}
        self.add(TrialStarted, **fields, stages=stages, reused=reused)
        started = self.events[-1]
        self.running[started.trial], self.epochs[started.trial] = started, 0

    def stored(self, key: str, begun: set[str]) -> bool:
        """The store has a stage or not; one that the study began itself was not there."""
        return self.in_store.setdefault(key, key not in begun and self.draw.random() < 0.25)

    def train(self) -> None:
        going_on = [name for name in self.running if self.epochs[name] < 6]
        if going_on:
            name = self.draw.choice(going_on)
            self.epochs[name] += 1
            record = {"epoch": float(self.epochs[name]), "seconds": self.draw.choice([1.0, 2.5])}
            record |= {"val/segm_AP": self.draw.random()} if self.epochs[name] % 2 else {}
            self.add(EpochFinished, trial=name, record=record, reused=self.draw.random() < 0.1)

    def end(self) -> None:
        for name in [name for name in self.running if self.draw.random() < 0.2]:
            end = End.FINISHED if self.epochs[name] == 6 else self.draw.choice([End.FAILED, End.PRUNED])
            self.ended[name] = self.running.pop(name)
            self.add(TrialEnded, trial=name, end=end, reason="" if end is End.FINISHED else "a reason")

    def prune(self, share: float) -> None:
        for name in [name for name in self.running if self.draw.random() < share]:
            self.running.pop(name)  # for good
            self.add(TrialEnded, trial=name, end=End.PRUNED, reason="behind")


def of(kind: type, events: list[Event], trial: str | None = None) -> list:
    return [e for e in events if isinstance(e, kind) and (trial is None or e.trial == trial)]


@pytest.fixture(params=SEEDS)
def events(request: pytest.FixtureRequest) -> list[Event]:
    return RandomStudy(request.param).events


def test_events_added_one_by_one_and_all_at_once_give_the_same_history(events):
    growing = History(SPEC)
    for number, event in enumerate(events, 1):
        trial = growing.add(event)
        assert (trial.started.trial if trial else None) == getattr(event, "trial", None)
        assert growing == History.of(SPEC, events[:number])


def test_trials_are_those_of_a_second_derivation(events):
    history = History.of(SPEC, events)
    assert list(history.trials) == [e.trial for e in of(TrialStarted, events)]
    for number, (name, trial) in enumerate(history.trials.items(), 1):
        assert (trial.number, trial.started) == (number, of(TrialStarted, events, name)[0])
        reported = of(EpochFinished, events, name)
        assert list(trial.epochs.values()) == reported
        assert trial.epoch == max((e.record["epoch"] for e in reported), default=0)
        for metric in ("seconds", "val/segm_AP"):
            values = [e.record[metric] for e in reported if metric in e.record]
            assert trial.latest.get(metric) == (values[-1] if values else None)
        last = ([None] + [e for e in events if isinstance(e, TrialEnded | TrialRetried) and e.trial == name])[-1]
        assert trial.ended == (last if isinstance(last, TrialEnded) else None)
        assert trial.retries == len(of(TrialRetried, events, name))


def test_stages_are_those_of_a_second_derivation(events):
    history, started = History.of(SPEC, events), of(TrialStarted, events)
    assert list(history.stages) == list(dict.fromkeys(key for e in started for key in e.stages))
    for key, stage in history.stages.items():
        users = [e for e in started if key in e.stages]
        assert [trial.started for trial in stage.trials] == users
        keys = list(users[0].stages)
        before = keys[keys.index(key) - 1] if keys[0] != key else None
        first = users[0].stages[before] + 1 if before else 1
        assert (stage.after, stage.first_epoch, stage.last_epoch) == (before, first, users[0].stages[key])
        assert stage.reused == any(key in e.reused for e in users)
        for epoch in range(1, 7):
            inside = stage.first_epoch <= epoch <= stage.last_epoch
            names = [e.trial for e in of(EpochFinished, events) if e.record["epoch"] == epoch]
            mine = [name for name in names if inside and any(name == user.trial for user in users)]
            assert [trial.started.trial for trial in stage.reports.get(epoch, [])] == mine


def test_a_study_is_complete_if_its_last_session_ended_without_a_reason(events):
    sessions = [e for e in events if isinstance(e, SessionStarted | SessionEnded)]
    found = History.of(SPEC, events)
    assert found.complete == (isinstance(sessions[-1], SessionEnded) and not sessions[-1].reason)
    assert [session.started for session in found.sessions] == of(SessionStarted, events)


def test_epochs_of_the_cost_are_those_of_a_second_derivation(events):
    cost, started = cost_of(History.of(SPEC, events)), {e.trial: e for e in of(TrialStarted, events)}
    reports, stored = of(EpochFinished, events), {key for e in started.values() for key in e.reused}
    stages = {(e.trial, e.record["epoch"]): started[e.trial].stage_of(int(e.record["epoch"])) for e in reports}
    by_epoch: dict[tuple[str, float], list[EpochFinished]] = {}
    trained: dict[tuple[str, float], list[EpochFinished]] = {}
    for e in reports:
        epoch, start = e.record["epoch"], started[e.trial]
        where = (stages[e.trial, epoch], epoch)
        by_epoch.setdefault(where, []).append(e)
        if not (e.reused or where[0] in stored or any(epoch <= start.stages[key] for key in start.reused)):
            trained.setdefault(where, []).append(e)
    ends = {e.trial: e for e in events if isinstance(e, TrialEnded | TrialRetried)}
    failed = {name for name, last in ends.items() if isinstance(last, TrialEnded) and last.end is End.FAILED}
    assert cost.requested == sum(max(e.stages.values()) for e in started.values())
    assert (cost.trained, cost.reused) == (len(trained), len(by_epoch) - len(trained))
    assert (cost.shared, cost.skipped) == (len(reports) - len(by_epoch), cost.requested - len(reports))
    assert cost.wasted == sum({e.trial for e in served} <= failed for served in trained.values())
    assert cost.training_seconds == 2 * sum(served[0].record["seconds"] for served in trained.values())


def test_seconds_of_the_cost_are_those_of_a_second_derivation(events):
    cost = cost_of(History.of(SPEC, events))
    begins = [number for number, event in enumerate(events) if isinstance(event, SessionStarted)]
    seconds = held = lost = 0.0
    for begin, following in zip(begins, [*begins[1:], len(events)], strict=True):
        session = events[begin:following]
        while isinstance(session[-1], TrialRetried) or getattr(session[-1], "end", None) is End.PRUNED:
            session.pop()  # the next session's
        end = session[-1].time
        seconds += end - session[0].time
        changes = of(WorkerGroupsUp, session)
        times = [change.time for change in changes] + [end]
        held += sum(change.worker_groups * (times[n + 1] - times[n]) for n, change in enumerate(changes))
        if isinstance(session[-1], SessionEnded):
            lost += session[-1].lost_seconds
            continue
        last = {e.trial: e for e in session if isinstance(e, EpochFinished | TrialEnded)}
        waits = sorted(end - e.time for e in last.values() if isinstance(e, EpochFinished))
        lost += sum(waits[: changes[-1].worker_groups] if changes else [])
    assert (cost.seconds, cost.held_seconds, cost.lost_seconds) == (seconds, 2 * held, 2 * lost)


def test_the_trial_of_a_history_has_its_config():
    (one, *_), (overrides, *_) = SPEC.trials(0, SPEC.grid[0]), SPEC.grid
    fields = {"configuration": 0, "overrides": overrides, "seed": 0, "noise_seed": None, "baseline": None}
    history = History.of(SPEC, [TrialStarted(**fields, stages={"a": 12}, reused=[])])
    assert history.trials[one.name].trial == one


def test_an_event_of_a_trial_that_never_started_is_an_error():
    with pytest.raises(KeyError):
        History.of(SPEC, [TrialRetried(trial="0007-seed0")])
