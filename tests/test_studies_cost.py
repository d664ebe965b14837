import pytest

from lncis.studies.record.history import History
from lncis.studies.record.journal import (
    End,
    EpochFinished,
    SessionEnded,
    SessionStarted,
    TrialEnded,
    TrialRetried,
    TrialStarted,
    WorkerGroupsUp,
)
from lncis.studies.report.cost import cost_of
from lncis.studies.spec import Resources, StudySpec

SPEC = StudySpec(
    name="s",
    search={"loss.gamma": {"type": "categorical", "choices": [4.0, 6.0]}},
    resources=Resources(num_workers=2),
)


class Diary:
    """Events of a study at times that a test sets."""

    def __init__(self) -> None:
        self.events, self.now = [], 1000.0

    def at(self, time: float) -> "Diary":
        self.now = 1000 + time
        return self

    def session(self, worker_groups: int = 1) -> None:
        """One whose worker groups are up at once."""
        self.events.append(SessionStarted(time=self.now, worker_groups=worker_groups, versions={}, code="", storage=""))
        self.worker_groups(worker_groups)

    def worker_groups(self, up: int) -> None:
        self.events.append(WorkerGroupsUp(time=self.now, worker_groups=up))

    def ended(self, lost: float = 0.0) -> None:
        self.events.append(SessionEnded(time=self.now, reason="", lost_seconds=lost))

    def start(self, number: int, stages: dict[str, int], reused: list[str] = []) -> str:  # noqa: B006
        event = TrialStarted(
            time=self.now,
            configuration=number,
            overrides={},
            seed=0,
            noise_seed=None,
            baseline=None,
            stages=stages,
            reused=reused,
        )
        self.events.append(event)
        return event.trial

    def epochs(self, trial: str, *numbers: int, each: float = 0.0, seconds: float = 3.0, reused: bool = False) -> None:
        for number in numbers:
            self.now += each
            record = {"epoch": float(number), "seconds": seconds}
            self.events.append(EpochFinished(time=self.now, trial=trial, record=record, reused=reused))

    def end(self, trial: str, end: End = End.FINISHED) -> None:
        self.events.append(TrialEnded(time=self.now, trial=trial, end=end, reason=""))

    @property
    def cost(self):
        found = cost_of(History.of(SPEC, self.events))
        assert found.requested == found.trained + found.shared + found.reused + found.skipped
        return found


@pytest.fixture
def diary() -> Diary:
    return Diary()


def test_nothing_costs_nothing(diary):
    assert diary.cost.requested == diary.cost.seconds == diary.cost.held_seconds == 0


def test_a_shared_stage_is_trained_once(diary):
    diary.session(worker_groups=2)
    one, two = diary.start(0, {"s": 2, "a": 4}), diary.start(1, {"s": 2, "b": 4})
    for trial in (one, two):
        diary.epochs(trial, 1, 2, 3, 4, each=3)
        diary.end(trial)
    diary.ended()
    cost = diary.cost
    assert (cost.requested, cost.trained, cost.shared, cost.reused, cost.skipped, cost.wasted) == (8, 6, 2, 0, 0, 0)
    assert cost.training_seconds == 6 * 3 * 2, "two workers"
    assert (cost.seconds, cost.held_seconds) == (24, 24 * 2 * 2)


def test_what_was_reused_is_not_trained(diary):
    diary.session()
    one = diary.start(0, {"s": 2, "t": 3, "a": 4}, reused=["t"])  # t holds what came before it
    two = diary.start(1, {"s": 2, "t": 3, "b": 4}, reused=["t"])  # by the same study
    for trial in (one, two):
        diary.epochs(trial, 1, 2, 3, 4)
        diary.end(trial)
    cost = diary.cost
    assert (cost.requested, cost.trained, cost.reused, cost.shared) == (8, 2, 3, 3)
    assert cost.training_seconds == 2 * 3 * 2


def test_a_stage_that_was_published_in_part_is_trained_from_there(diary):
    diary.session()
    one, two = diary.start(0, {"s": 3, "a": 4}), diary.start(1, {"s": 3, "b": 4})
    for trial in (one, two):
        diary.epochs(trial, 1, 2, reused=True)
        diary.epochs(trial, 3, 4)
    cost = diary.cost
    assert (cost.requested, cost.trained, cost.reused, cost.shared) == (8, 3, 2, 3)
    assert cost.training_seconds == 3 * 3 * 2


def test_what_a_killed_session_trained_and_the_next_one_finds_published_stays_trained(diary):
    diary.session()
    one = diary.start(0, {"s": 2, "a": 4})
    diary.epochs(one, 1, 2, 3)
    diary.session()
    two = diary.start(1, {"s": 2, "b": 4})
    diary.epochs(two, 1, 2, reused=True)
    diary.epochs(two, 3, 4)
    diary.epochs(one, 4)
    cost = diary.cost
    assert (cost.requested, cost.trained, cost.reused, cost.shared) == (8, 6, 0, 2)


def test_pruned_failed_and_unfinished_trials_skip_epochs_and_failed_ones_waste_them(diary):
    diary.session()
    pruned, failed, running = (diary.start(n, {"s": 2, f"{n}": 6}) for n in range(3))
    diary.epochs(pruned, 1, 2, 3)
    diary.end(pruned, End.PRUNED)
    diary.epochs(failed, 1, 2, 3, 4)
    diary.end(failed, End.FAILED)
    diary.epochs(running, 1, 2, 3, 4, 5)
    cost = diary.cost
    assert (cost.requested, cost.skipped) == (18, 3 + 2 + 1)
    assert cost.trained == 2 + 1 + 2 + 3
    assert cost.wasted == 2, "stage 1 served the others too"
    diary.events.append(TrialRetried(time=diary.now, trial=failed))
    assert diary.cost.wasted == 0
    diary.epochs(failed, 5, 6)
    diary.end(failed)
    assert diary.cost.wasted == 0


def test_an_epoch_that_another_trial_reports_after_a_crash_is_shared(diary):
    diary.session()
    one = diary.start(0, {"s": 2, "a": 4})
    diary.epochs(one, 1, 2, 3)
    diary.session()
    diary.epochs(one, 4)
    two = diary.start(1, {"s": 2, "b": 4})
    diary.epochs(two, 1, 2, 3, 4)
    assert (diary.cost.trained, diary.cost.shared) == (6, 2)


def test_time_between_sessions_is_not_counted(diary):
    diary.session(worker_groups=2)
    one = diary.start(0, {"a": 4})
    diary.epochs(one, 1, 2, each=10)
    diary.ended(lost=4)
    diary.at(5000).session(worker_groups=1)
    diary.epochs(one, 3, each=10)
    diary.ended(lost=1)
    cost = diary.cost
    assert (cost.seconds, cost.held_seconds, cost.lost_seconds) == (30, (20 * 2 + 10) * 2, 5 * 2)


@pytest.mark.parametrize("killed", [True, False])
def test_worker_groups_that_come_and_go_are_held_while_they_are_up(diary, killed):
    diary.session(worker_groups=64)
    diary.worker_groups(0)
    diary.at(20).worker_groups(2)
    one = diary.start(0, {"a": 4})
    diary.at(50).worker_groups(3)
    diary.at(60).worker_groups(1)
    diary.epochs(one, 1)
    diary.at(100).epochs(one, 2)
    if not killed:
        diary.ended()
    assert diary.cost.held_seconds == (30 * 2 + 10 * 3 + 40 * 1) * 2
    assert diary.cost.seconds == 100


def test_a_killed_session_lost_no_more_than_its_last_worker_groups_can_have_trained(diary):
    diary.session(worker_groups=64)
    diary.at(5).worker_groups(1)
    for number in range(3):  # two of them wait for a stage of the first
        diary.epochs(diary.start(number, {"s": 4}), 1)
    diary.at(9).worker_groups(1)
    diary.at(900).session()
    assert diary.cost.lost_seconds == 4 * 2


def test_a_killed_session_lost_what_its_running_trials_trained_since_their_last_epochs(diary):
    diary.session(worker_groups=2)
    one, two, three = (diary.start(n, {f"{n}": 4}) for n in range(3))
    diary.at(10).epochs(one, 1)
    diary.at(14).epochs(three, 1)
    diary.end(three, End.FAILED)
    diary.at(16).epochs(two, 1)
    diary.at(20).epochs(two, 2)
    diary.at(900).session()
    assert diary.cost.lost_seconds == 10 * 2
    assert diary.cost.seconds == 20


@pytest.mark.parametrize("killed", [True, False])
def test_what_is_written_before_a_session_begins_is_not_part_of_the_one_before(diary, killed):
    diary.session(worker_groups=2)
    one, two = diary.start(0, {"a": 4}), diary.start(1, {"b": 4})
    diary.epochs(one, 1, 2, each=10)
    diary.end(one, End.FAILED)
    diary.epochs(two, 1)
    if not killed:
        diary.ended(lost=2)
    diary.at(5000).events.append(TrialRetried(time=diary.now, trial=one))
    diary.end(two, End.PRUNED)  # it was behind when the study was killed
    diary.session()
    diary.epochs(one, 3, each=10)
    diary.ended()
    cost = diary.cost
    assert cost.seconds == 20 + 10
    assert cost.held_seconds == (20 * 2 + 10) * 2
    assert cost.lost_seconds == (0 if killed else 2 * 2)
