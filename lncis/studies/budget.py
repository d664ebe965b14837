"""The budget of a study: what it has spent, and how much of its plan fits."""

from collections.abc import Sequence
from dataclasses import dataclass

from lncis.studies.plan import Plan
from lncis.studies.record.history import History
from lncis.studies.record.journal import EpochFinished, Event
from lncis.studies.report.cost import held_seconds
from lncis.studies.spec import StudySpec


@dataclass(frozen=True, kw_only=True)
class Spent:
    """What a study has spent, over all its sessions; the fields are those of Budget."""

    epochs: int
    worker_hours: float
    hours: float
    money: float
    """0 without a price."""


class Spending:
    """Follows what a study spends; each event takes constant time."""

    def __init__(self, spec: StudySpec) -> None:
        self._spec, self._history = spec, History(spec)
        self._read = self._epochs = 0

    def spent(self, events: Sequence[Event], now: float) -> Spent:
        """Return what was spent by the time `now`; `events` are those of the journal, of which it reads the new ones.

        The last session goes on until `now`, unless it has ended.
        """
        for event in events[self._read :]:
            trial = self._history.add(event)
            if isinstance(event, EpochFinished) and trial is not None:
                epoch = int(event.record["epoch"])
                stage = self._history.stages[trial.started.stage_of(epoch)]
                users = [user for user in stage.reports[epoch] if not user.had_stored(epoch)]
                # the first one that trained it, and no other
                self._epochs += not stage.reused and users == [trial]
        self._read = len(events)
        sessions = self._history.sessions
        ends = [s.last_time if s.ended or s is not sessions[-1] else max(now, s.last_time) for s in sessions]
        held = sum(held_seconds(session, end) for session, end in zip(sessions, ends, strict=True))
        worker_hours = held * self._spec.resources.num_workers / 3600
        return Spent(
            epochs=self._epochs,
            worker_hours=worker_hours,
            hours=sum(end - session.started.time for session, end in zip(sessions, ends, strict=True)) / 3600,
            money=worker_hours * (self._spec.resources.price_per_worker_hour or 0.0),
        )

    def reached(self, events: Sequence[Event], now: float) -> str:
        """Return the limits of the budget that are reached, such as `epochs: 50 of 50`; empty where none is."""
        limits = {name: limit for name, limit in vars(self._spec.budget).items() if limit is not None}
        if not limits:
            return ""
        spent = self.spent(events, now)
        over = {name: limit for name, limit in limits.items() if getattr(spent, name) >= limit}
        return ", ".join(f"{name}: {getattr(spent, name):.4g} of {limit:g}" for name, limit in over.items())


def remedy(spec: StudySpec, study_id: str, reached: str) -> str:
    """Return the command by which a study goes on whose budget is spent."""
    names = [part.partition(":")[0] for part in reached.split(", ")]
    options = " ".join(f"--set budget.{name}=MORE" for name in names)
    return f"lncis study run --resume {study_id} {options}"


def fitting(plan: Plan, seconds_per_epoch: float | None) -> str:
    """Return how many trials of a plan the budget is enough for, in their order; empty without a budget.

    Limits of time count where it is known how long an epoch takes; starting up and idle workers come on top.
    """
    spec, budget = plan.spec, plan.spec.budget
    limits = {name: limit for name, limit in vars(budget).items() if limit is not None}
    epochs: dict[str, float] = {"epochs": budget.epochs} if budget.epochs is not None else {}
    if seconds_per_epoch:
        workers = spec.resources.num_workers
        an_hour = 3600 / seconds_per_epoch
        at_a_time = spec.resources.at_a_time(spec.total_trials)
        price = spec.resources.price_per_worker_hour
        if budget.hours is not None:
            epochs["hours"] = budget.hours * an_hour * at_a_time
        if budget.worker_hours is not None:
            epochs["worker_hours"] = budget.worker_hours * an_hour / workers
        if budget.money is not None and price is not None:
            epochs["money"] = budget.money / price * an_hour / workers
    if not limits:
        return ""
    if not epochs:
        return f"budget: how much fits into {', '.join(limits)} is unknown until a first study like it"
    tightest = min(epochs, key=lambda name: epochs[name])
    seen, trained, trials = set[str](), 0, 0
    for _, tasks in plan.trials:
        for task in tasks:
            if task.key not in seen:
                seen.add(task.key)
                trained += task.until - (task.after.until if task.after else 0)
        if trained > epochs[tightest]:
            break
        trials += 1
    about = "" if tightest == "epochs" else "about "
    more = "" if trials else "; raise it, or nothing will be found"
    return f"budget: {about}{trials} of {len(plan.trials)} trials fit into {tightest}: {limits[tightest]:g}{more}"
