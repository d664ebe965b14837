"""How many worker groups there are: the decision by hand, and a cluster simulated from it."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from lncis.execution import worker_groups
from lncis.execution.queue import NO_WORKER_TIMEOUT_SECONDS, TaskQueue
from lncis.execution.tasks import State, Task
from lncis.studies.driver.worker_pool import WorkerPool, to_follow, to_start
from lncis.studies.record.journal import Journal
from lncis.studies.spec import Resources, StudySpec
from lncis.studies.stages.tree import StageTree
from lncis.studies.study_run import Observer, StudyRun

FIXED = {"room": None, "grows": True}


def auto(room: int, grows: bool = True) -> dict[str, object]:
    return {"room": room, "grows": grows}


@pytest.mark.parametrize(
    ("tasks", "up", "coming", "most", "where", "expected"),
    [
        # a fixed number: all at once, whether there is room or not
        (9, 0, 0, 4, FIXED, 4),
        (2, 0, 0, 4, FIXED, 2),
        (9, 1, 2, 4, FIXED, 1),
        (1, 3, 0, 4, FIXED, 0),
        (9, 4, 0, 3, FIXED, 0),
        # auto: what there is room for
        (9, 0, 0, 64, auto(3), 3),
        (2, 0, 0, 64, auto(3), 2),
        (9, 0, 0, 2, auto(3), 2),
        (9, 2, 1, 64, auto(3), 2),
        # and one more, if none is on its way already
        (9, 3, 0, 64, auto(0), 1),
        (9, 3, 1, 64, auto(0), 0),
        (3, 3, 0, 64, auto(0), 0),
        (9, 0, 0, 64, auto(0), 1),
        (0, 0, 0, 64, auto(5), 0),
        # a machine of one's own does not grow
        (9, 2, 0, 64, auto(0, grows=False), 0),
        (9, 0, 0, 64, auto(0, grows=False), 1),
        (9, 0, 0, 64, auto(2, grows=False), 2),
    ],
)
def test_worker_groups_to_start(tasks, up, coming, most, where, expected):
    assert to_start(tasks=tasks, up=up, coming=coming, most=most, **where) == expected


@pytest.mark.parametrize(
    ("up", "coming", "most", "where", "expected"),
    [
        (0, 4, 4, FIXED, 4),
        (2, 0, 4, FIXED, 4),
        (0, 3, 64, auto(0), 3),  # at the start, for all that come
        (3, 0, 64, auto(0), 4),
        (3, 1, 64, auto(0), 4),
        (3, 0, 64, auto(4), 7),  # a node of four has come
        (3, 1, 3, auto(4), 3),
        (2, 0, 64, auto(0, grows=False), 2),
    ],
)
def test_trials_to_follow(up, coming, most, where, expected):
    assert to_follow(up=up, coming=coming, most=most, **where) == expected


def grown(places: list[int], trials: int) -> list[int]:
    """Return how many worker groups train at each look, with `places` in the cluster by then and endless trials."""
    up = coming = 0
    history = []
    for there in places:
        arrived = min(coming, there - up)
        up, coming = up + arrived, coming - arrived
        room = there - up
        tasks = to_follow(up=up, coming=coming, most=trials, room=room, grows=True)
        coming += to_start(tasks=tasks, up=up, coming=coming, most=trials, room=room, grows=True)
        history.append(up)
    return history


def test_nodes_that_come_are_used_as_far_as_there_are_trials():
    assert grown([1, 1, 1, 2, 2, 2, 6, 6, 6], trials=5) == [0, 1, 1, 2, 2, 2, 3, 5, 5]


def test_on_a_full_cluster_one_waits():
    up, coming = 2, 0
    for _ in range(5):
        tasks = to_follow(up=up, coming=coming, most=64, room=0, grows=True)
        coming += to_start(tasks=tasks, up=up, coming=coming, most=64, room=0, grows=True)
        assert (tasks, coming) == (3, 1)


class Waiting:
    """A worker group for which the cluster has no room."""

    def __init__(self, name: str) -> None:
        self.name = name

    def is_alive(self) -> bool:
        return True

    def lost(self) -> str:
        return ""


class Dead(Waiting):
    """A worker group whose host has died."""

    def is_alive(self) -> bool:
        return False

    def lost(self) -> str:
        return "its host died"


class AsActor:
    """A queue of this process that is called as an actor."""

    def __init__(self, queue: TaskQueue) -> None:
        self._queue = queue

    def __getattr__(self, name: str) -> SimpleNamespace:
        return SimpleNamespace(remote=getattr(self._queue, name))


def test_a_study_without_room_waits_and_says_so_once_each_time(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "a cluster that others use too")
    monkeypatch.setattr(worker_groups, "start_worker_group", lambda host, name, queue, workers: Waiting(name))
    monkeypatch.setattr(worker_groups, "start_host", lambda groups: None)
    spec = StudySpec(
        name="s",
        search={"loss.gamma": {"type": "categorical", "choices": [4.0, 6.0]}},
        resources=Resources(max_concurrent_trials=1),
    )
    now, notes = [0.0], list[str]()
    queue = TaskQueue(lambda: now[0], scaled=True, waits=True)
    queue.submit("anna", [Task(key="stage", config=spec.base, until=2, directory=Path("stage"))])
    book = Journal(Path())
    told = Observer()
    told.on_note = notes.append
    run = StudyRun(
        spec=spec,
        folder=Path("study").absolute(),
        tree=StageTree(spec, Path("study")),
        journal=book,
        observers=[told],
        published=None,
    )
    pool = WorkerPool(run, 2, queue)

    def hours(count: int) -> None:
        for _ in range(count * 60):
            now[0] += 60
            pool._attend(queue.status())
            assert queue.progress("anna").state is not State.CLOSED

    hours(5)
    (note,) = notes
    assert note.startswith(
        f"no worker has sent a heartbeat for {NO_WORKER_TIMEOUT_SECONDS / 60:.0f} minutes: the cluster has no room"
    )
    assert note.endswith("; the study keeps waiting")
    queue.take("study-0")
    pool._attend(queue.status())
    hours(5)
    assert notes == [note, note], "its node was taken away, and there is no other"
    book.close()


def test_groups_that_end_together_are_one_loss(monkeypatch):
    """As those of a host that dies: it is started again, and so are they."""
    started = list[str]()

    def start(host, name, queue, workers):
        started.append(name)
        return Dead(name) if len(started) <= 2 else Waiting(name)

    monkeypatch.setattr(worker_groups, "start_worker_group", start)
    monkeypatch.setattr(worker_groups, "start_host", lambda groups: None)
    queue = TaskQueue(scaled=True)
    gammas = {"loss.gamma": {"type": "categorical", "choices": [4.0, 6.0]}}
    spec = StudySpec(name="s", search=gammas, resources=Resources(max_concurrent_trials=2))
    tree, book = StageTree(spec, Path("s")), Journal(Path())
    run = StudyRun(spec=spec, folder=Path("s").absolute(), tree=tree, journal=book, observers=[], published=None)
    pool = WorkerPool(run, 2, AsActor(queue))
    pool.begin()
    pool._attend(queue.status())
    queue.submit("anna", [Task(key="stage", config=spec.base, until=2, directory=Path("stage"))])
    pool._attend(queue.status())
    book.close()
    assert started == ["s-0", "s-1", "s-2"]
    assert queue.take("s-2") != "stop"
