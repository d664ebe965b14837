from dataclasses import replace
from pathlib import Path

import pytest

from lncis.config import Schedule, TrainConfig
from lncis.execution import queue as queues
from lncis.execution.queue import (
    HEARTBEAT_TIMEOUT_SECONDS,
    IDLE_TIMEOUT_SECONDS,
    MAX_ATTEMPTS,
    NO_WORKER_TIMEOUT_SECONDS,
    QueueStatus,
    TaskQueue,
)
from lncis.execution.tasks import Progress, State, Task

CONFIG = TrainConfig(schedule=Schedule(epochs=4))
STAGE_1 = Task(key="stage 1", config=CONFIG, until=2, directory=Path("stage 1"))


def stage_2(key: str, after: Task = STAGE_1) -> Task:
    return Task(key=key, config=CONFIG, until=4, directory=Path(key), after=after)


A, B = stage_2("a"), stage_2("b")


@pytest.fixture
def queue() -> TaskQueue:
    return TaskQueue()


@pytest.fixture
def forked(queue) -> TaskQueue:
    """Two owners, one first stage."""
    queue.submit("anna", [STAGE_1, A])
    queue.submit("bert", [STAGE_1, B])
    return queue


def record(epoch: int, value: float = 0.0) -> dict[str, float]:
    return {"epoch": float(epoch), "val/segm_AP": value}


def do(queue: TaskQueue, worker_group: str, task: Task, first: int = 1) -> None:
    assert queue.take(worker_group) == task
    for epoch in range(first, task.until + 1):
        assert queue.report(task.key, record(epoch))
    queue.finish(task.key)


def epochs(progress: Progress) -> list[float]:
    return [r["epoch"] for r in progress.records]


def test_empty_queue_lets_worker_groups_wait(queue):
    assert queue.take("worker_group") == "wait"


def test_shared_stage_is_done_once_and_seen_by_all_owners(forked):
    do(forked, "worker_group", STAGE_1)
    for owner in ("anna", "bert"):
        assert forked.progress(owner) == Progress(state=State.WAITING, records=[record(1), record(2)])
    do(forked, "worker_group", A, first=3)
    do(forked, "worker_group", B, first=3)
    assert forked.take("worker_group") == "wait"
    for owner in ("anna", "bert"):
        assert forked.progress(owner).state is State.DONE
        assert epochs(forked.progress(owner)) == [1, 2, 3, 4]


def test_later_owner_of_a_finished_stage_starts_behind_it(queue):
    queue.submit("anna", [STAGE_1, A])
    do(queue, "worker_group", STAGE_1)
    do(queue, "worker_group", A, first=3)
    queue.submit("bert", [STAGE_1, B])
    assert epochs(queue.progress("bert")) == [1, 2]
    assert queue.take("worker_group") == B


def test_owner_of_nothing_new_is_done_at_once(queue):
    queue.submit("anna", [STAGE_1, A])
    do(queue, "worker_group", STAGE_1)
    do(queue, "worker_group", A, first=3)
    queue.submit("bert", [STAGE_1, A])
    assert queue.progress("bert").state is State.DONE
    assert epochs(queue.progress("bert")) == [1, 2, 3, 4]


def test_tasks_are_taken_in_the_order_of_submission(queue):
    alone = [Task(key=key, config=CONFIG, until=4, directory=Path(key)) for key in "xyz"]
    for task in alone:
        queue.submit(task.key, [task])
    assert [queue.take(f"worker group {i}") for i in range(3)] == alone
    assert queue.take("worker group 3") == "wait"


def test_task_waits_until_the_one_before_is_done(forked):
    other = Task(key="other", config=CONFIG, until=4, directory=Path("other"))
    assert forked.take("first") == STAGE_1
    assert forked.take("second") == "wait"
    forked.submit("carl", [other])
    assert forked.take("second") == other  # what is not ready holds nothing up
    forked.report(STAGE_1.key, record(1))
    assert forked.take("third") == "wait"
    forked.report(STAGE_1.key, record(2))
    forked.finish(STAGE_1.key)
    assert forked.take("third") == A


def test_worker_group_that_comes_back_gets_its_task_again(forked):
    assert forked.take("worker_group") == STAGE_1
    forked.report(STAGE_1.key, record(1))
    assert forked.take("worker_group") == STAGE_1
    assert forked.take("another") == "wait"
    assert epochs(forked.progress("anna")) == [1]


def test_state_follows_the_work(forked):
    assert forked.progress("anna").state is State.WAITING
    forked.take("worker_group")
    assert forked.progress("anna").state is forked.progress("bert").state is State.RUNNING
    for epoch in (1, 2):
        forked.report(STAGE_1.key, record(epoch))
    forked.finish(STAGE_1.key)
    forked.take("worker_group")
    assert forked.progress("anna").state is State.RUNNING
    assert forked.progress("bert").state is State.WAITING


def test_report_twice_is_as_once(forked):
    forked.take("worker_group")
    for _ in range(2):
        assert forked.report(STAGE_1.key, record(1, 30.0))
    assert forked.progress("anna").records == [record(1, 30.0)]


def test_records_are_in_the_order_of_epochs(forked):
    forked.take("worker_group")
    for epoch in (2, 1):
        forked.report(STAGE_1.key, record(epoch))
    assert epochs(forked.progress("anna")) == [1, 2]


def test_submit_take_finish_and_withdraw_twice_are_as_once(forked):
    forked.submit("anna", [STAGE_1, A])
    assert forked.take("worker_group") == forked.take("worker_group") == STAGE_1
    for epoch in (1, 2):
        forked.report(STAGE_1.key, record(epoch))
    forked.finish(STAGE_1.key)
    forked.finish(STAGE_1.key)
    forked.withdraw("anna")
    forked.withdraw("anna")
    assert forked.take("worker_group") == B
    assert forked.take("another") == "wait"


def test_failure_reaches_all_that_comes_after(queue):
    last = Task(key="last", config=CONFIG, until=6, directory=Path("last"), after=A)
    alone = Task(key="alone", config=CONFIG, until=4, directory=Path("alone"))
    queue.submit("anna", [STAGE_1, A, last])
    queue.submit("bert", [STAGE_1, B])
    queue.submit("carl", [alone])
    queue.take("worker_group")
    queue.report(STAGE_1.key, record(1))
    for _ in range(2):
        queue.fail(STAGE_1.key, "the loss is nan")
    for owner in ("anna", "bert"):
        assert queue.progress(owner) == Progress(state=State.FAILED, records=[record(1)], reason="the loss is nan")
    assert queue.progress("carl").state is State.WAITING
    assert queue.take("worker_group") == alone


def test_failure_reaches_who_asked_for_the_later_task_alone(queue):
    last = Task(key="last", config=CONFIG, until=6, directory=Path("last"), after=A)
    queue.submit("anna", [STAGE_1, A, last])
    queue.submit("dora", [last])
    queue.take("worker_group")
    queue.fail(STAGE_1.key, "no data")
    assert queue.progress("dora") == Progress(state=State.FAILED, records=[], reason="no data")


def test_failure_behind_the_fork_spares_the_other_branch(forked):
    do(forked, "worker_group", STAGE_1)
    assert forked.take("worker_group") == A
    forked.fail(A.key, "out of memory")
    assert forked.progress("anna").reason == "out of memory"
    assert forked.progress("bert") == Progress(state=State.WAITING, records=[record(1), record(2)])
    do(forked, "worker_group", B, first=3)


def test_owner_who_asks_for_a_failed_stage_fails_too(queue):
    queue.submit("anna", [STAGE_1, A])
    queue.take("worker_group")
    queue.fail(STAGE_1.key, "no data")
    queue.submit("bert", [STAGE_1, B])
    assert queue.progress("bert").state is State.FAILED
    assert queue.progress("bert").reason == "no data"
    assert queue.take("worker_group") == "wait"


def test_withdrawn_task_that_no_one_else_wants_stops_after_its_epoch(queue):
    queue.submit("anna", [STAGE_1, A])
    queue.take("worker_group")
    assert queue.report(STAGE_1.key, record(1))
    queue.withdraw("anna")
    assert not queue.report(STAGE_1.key, record(2))
    queue.finish(STAGE_1.key)
    assert queue.take("worker_group") == "wait"


def test_withdrawn_task_that_others_want_goes_on(forked):
    forked.take("worker_group")
    forked.withdraw("anna")
    assert forked.report(STAGE_1.key, record(1))
    assert forked.report(STAGE_1.key, record(2))
    forked.finish(STAGE_1.key)
    assert forked.take("worker_group") == B  # a was anna's alone


def test_withdrawn_task_may_be_asked_for_again(queue):
    queue.submit("anna", [STAGE_1])
    queue.take("worker_group")
    queue.withdraw("anna")
    assert not queue.report(STAGE_1.key, record(1))
    queue.finish(STAGE_1.key)
    queue.submit("bert", [STAGE_1])
    assert queue.progress("bert") == Progress(state=State.WAITING, records=[record(1)])
    assert queue.take("worker_group") == STAGE_1


def test_withdraw_of_a_stranger_is_nothing(forked):
    forked.withdraw("nobody")
    assert forked.take("worker_group") == STAGE_1


def test_closed_queue_sends_idle_worker_groups_home(queue):
    queue.submit("anna", [STAGE_1, A])
    do(queue, "worker_group", STAGE_1)
    do(queue, "worker_group", A, first=3)
    queue.close()
    queue.close()
    assert queue.take("worker_group") == "stop"
    assert queue.progress("anna").state is State.DONE


def test_close_ends_running_tasks_and_says_why_to_their_owners(queue):
    queue.submit("anna", [STAGE_1, A])
    queue.take("worker_group")
    queue.close("the workers died")
    queue.close("and again")
    assert not queue.report(STAGE_1.key, record(1))
    assert queue.progress("anna") == Progress(state=State.CLOSED, records=[record(1)], reason="the workers died")


def test_submission_to_a_closed_queue_is_closed_for_its_reason(queue):
    queue.close("the workers died")
    queue.submit("anna", [STAGE_1, A])
    assert queue.progress("anna") == Progress(state=State.CLOSED, records=[], reason="the workers died")


def test_what_failed_before_the_queue_closed_has_failed(queue):
    queue.submit("anna", [STAGE_1, A])
    queue.take("worker_group")
    queue.fail(STAGE_1.key, "the loss is nan")
    queue.close("the workers died")
    assert queue.progress("anna") == Progress(state=State.FAILED, records=[], reason="the loss is nan")


def test_a_closed_queue_hands_out_nothing_more(queue):
    queue.submit("anna", [STAGE_1, A])
    queue.take("worker_group")
    queue.close()
    assert not queue.report(STAGE_1.key, record(1))
    queue.finish(STAGE_1.key)
    assert [queue.take(worker_group) for worker_group in ("worker_group", "other")] == ["stop", "stop"]


def test_a_task_that_kills_its_workers_again_and_again_is_given_up(queue):
    queue.submit("anna", [STAGE_1])
    queue.submit("bert", [B])
    queue.take("worker_group")
    assert [queue.take("worker_group") for _ in range(MAX_ATTEMPTS - 1)] == [STAGE_1] * (MAX_ATTEMPTS - 1)
    queue.report(STAGE_1.key, record(1))
    again = [queue.take("worker_group") for _ in range(MAX_ATTEMPTS - 1)]
    assert again == [STAGE_1] * (MAX_ATTEMPTS - 1), "an epoch was finished: it may try again"
    assert queue.take("worker_group") != STAGE_1
    for owner in ("anna", "bert"):
        reason = queue.progress(owner).reason
        assert reason == (
            f"its workers died {MAX_ATTEMPTS} times without finishing an epoch (were they short of memory?)"
        )


def test_what_a_worker_said_before_it_died_is_in_the_reason(queue):
    queue.submit("anna", [STAGE_1])
    for text in ("first words", "CUDA out of memory"):
        queue.take("worker_group")
        queue.note(STAGE_1.key, text)
    while queue.take("worker_group") != "wait":
        pass
    assert queue.progress("anna").reason == (
        f"its workers died {MAX_ATTEMPTS} times without finishing an epoch; the last error: CUDA out of memory"
    )


def test_a_failed_task_stays_failed(queue):
    queue.submit("anna", [STAGE_1, A])
    queue.take("worker_group")
    queue.fail(STAGE_1.key, "the loss is nan")
    queue.finish(STAGE_1.key)
    assert queue.take("worker_group") == "wait"
    assert queue.progress("anna").state is State.FAILED


def test_progress_of_a_withdrawn_owner_says_so(queue):
    queue.submit("anna", [STAGE_1])
    queue.withdraw("anna")
    assert queue.progress("anna") == Progress(state=State.FAILED, records=[], reason="it was withdrawn")


def test_a_withdrawn_owner_learns_why(queue):
    queue.submit("anna", [STAGE_1])
    queue.withdraw("anna", "asha: behind the others after epoch 7")
    assert queue.progress("anna").reason == "asha: behind the others after epoch 7"
    queue.submit("anna", [STAGE_1])
    assert queue.progress("anna").state is State.WAITING


# chains in pieces


def test_a_chain_in_pieces_is_done_at_its_very_end(queue):
    queue.submit("anna", [STAGE_1])
    do(queue, "worker_group", STAGE_1)
    assert queue.progress("anna") == Progress(state=State.WAITING, records=[record(1), record(2)])
    assert queue.take("worker_group") == "wait"
    queue.submit("anna", [STAGE_1, A])
    do(queue, "worker_group", A, first=3)
    assert queue.progress("anna").state is State.DONE
    assert epochs(queue.progress("anna")) == [1, 2, 3, 4]


def test_a_piece_withdrawn_is_not_trained(queue):
    middle = Task(key="middle", config=CONFIG, until=3, directory=Path("m"), after=STAGE_1)
    queue.submit("anna", [STAGE_1, middle])
    do(queue, "worker_group", STAGE_1)
    queue.withdraw("anna", "behind")
    assert queue.take("worker_group") == "wait"


def test_progress_leaves_out_what_was_seen(forked):
    do(forked, "worker_group", STAGE_1)
    do(forked, "worker_group", A, first=3)
    assert epochs(forked.progress("anna", seen=0)) == [1, 2, 3, 4]
    assert epochs(forked.progress("anna", seen=1)) == [2, 3, 4]
    assert epochs(forked.progress("anna", seen=4)) == []
    assert forked.progress("anna", seen=4).state is State.DONE


def test_a_stage_that_begins_with_its_history_is_told_from_the_first_epoch(queue):
    """The first task of a chain may be an reused one: it reports the epochs of what came before."""
    queue.submit("anna", [replace(A, after=None)])
    queue.take("worker_group")
    for epoch in range(1, 5):
        queue.report(A.key, record(epoch))
    assert epochs(queue.progress("anna")) == [1, 2, 3, 4]


def test_epochs_that_an_earlier_study_published_are_told_from_those_that_are_trained(queue):
    queue.submit("anna", [STAGE_1, A])
    queue.take("worker_group")
    queue.report(STAGE_1.key, record(1), True)
    queue.report(STAGE_1.key, record(2))
    queue.finish(STAGE_1.key)
    assert queue.progress("anna").reused == {1}
    queue.take("worker_group")
    for epoch in (1, 2):
        queue.report(A.key, record(epoch), True)  # it goes on from the copy of the stage before
    queue.report(A.key, record(3))
    assert queue.progress("anna", seen=3).reused == {1}
    queue.submit("bert", [STAGE_1, B])
    assert queue.progress("bert").reused == {1}


def test_what_a_worker_published_before_it_died_is_no_earlier_study_s(queue):
    queue.submit("anna", [STAGE_1])
    queue.take("worker_group")
    queue.report(STAGE_1.key, record(1))
    queue.take("worker_group")  # it died when it had published epoch 2, and not told of it
    for epoch in (1, 2):
        queue.report(STAGE_1.key, record(epoch), True)
    assert queue.progress("anna").reused == frozenset()
    assert epochs(queue.progress("anna")) == [1, 2]


# probes


def test_probes_are_tasks_that_complete_themselves(queue):
    probe = Task(key="probe", config=CONFIG, until=1, directory=Path(), probe=True)
    queue.submit("parameter", [probe])
    assert queue.take("worker_group") == probe
    assert queue.report("probe", {"epoch": 1.0, "stage1/loss": 2.0})
    queue.finish("probe")
    assert queue.progress("parameter") == Progress(state=State.DONE, records=[{"epoch": 1.0, "stage1/loss": 2.0}])


# worker groups that are lost, and time


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_follower_has_its_owners_until_it_names_their_ends(queue, monkeypatch):
    monkeypatch.setattr(queues, "FOLLOWED_AT_ONCE", 2)

    def followed(follower: str, *ended: str) -> tuple[list[str], str]:
        news, closed = queue.news_for(follower, {}, ended)
        return list(news), closed

    assert followed("r") == ([], "")
    for owner in ("a", "b", "c"):
        queue.submit(owner, [STAGE_1])
        queue.follow(owner)
    assert followed("r") == (["a", "b"], "")
    assert followed("s") == (["c"], "")
    assert followed("r") == (["a", "b"], ""), "one that died begins anew"
    assert followed("r", "a") == followed("r", "a") == (["b"], "")
    queue.follow("a")  # it is retried
    assert followed("s") == (["c", "a"], "")
    queue.close("the end")
    assert followed("r") == (["b"], "the end")
    assert followed("s", "c", "a") == ([], "the end")


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def timed(clock) -> TaskQueue:
    return TaskQueue(clock)


def test_the_task_of_a_lost_worker_group_goes_to_another(forked):
    assert forked.take("one") == STAGE_1
    forked.report(STAGE_1.key, record(1))
    assert forked.take("two") == "wait"
    forked.worker_group_lost("one", "its node is gone")
    assert forked.progress("anna").state is State.WAITING
    assert forked.take("two") == STAGE_1
    assert epochs(forked.progress("anna")) == [1]


def test_without_any_worker_group_the_queue_closes(forked):
    forked.take("one")
    forked.take("two")
    forked.worker_group_lost("two", "first")
    assert forked.progress("anna").state is State.RUNNING
    forked.worker_group_lost("one", "its node is gone")
    assert forked.progress("anna") == Progress(state=State.CLOSED, records=[], reason="its node is gone")
    assert forked.take("one") == "stop"


def test_a_worker_group_that_is_lost_before_it_came_closes_the_queue_too(queue):
    queue.submit("anna", [STAGE_1])
    queue.worker_group_lost("one", "no such image")
    assert queue.progress("anna").reason == "no such image"


def test_time_is_lost_from_the_last_epoch_to_the_return(timed, clock):
    timed.submit("anna", [STAGE_1, A])
    timed.take("worker_group")  # at 100
    clock.now = 130
    timed.report(STAGE_1.key, record(1))
    clock.now = 150  # dies somewhere here
    timed.take("worker_group")
    assert timed.lost_seconds() == 20
    clock.now = 155
    timed.take("worker_group")
    assert timed.lost_seconds() == 25
    clock.now = 170
    timed.report(STAGE_1.key, record(2))
    timed.finish(STAGE_1.key)
    clock.now = 400  # idle
    timed.take("worker_group")
    assert timed.lost_seconds() == 25


def test_what_a_lost_worker_group_trained_is_lost(timed, clock):
    timed.submit("anna", [STAGE_1])
    timed.take("worker_group")
    clock.now = 160
    timed.worker_group_lost("worker_group", "its node is gone")
    assert timed.lost_seconds() == 60


def test_a_task_that_was_put_off_is_taken_again_and_the_time_is_lost_once(timed, clock):
    timed.submit("anna", [STAGE_1])
    timed.take("worker_group")
    for _ in range(3):
        clock.now += 40
        timed.postpone(STAGE_1.key, "the bucket is away")
        timed.postpone(STAGE_1.key, "the bucket is away")
        clock.now += 60
        assert timed.take("worker_group") == STAGE_1
    assert timed.lost_seconds() == 300
    timed.report(STAGE_1.key, record(2))
    timed.finish(STAGE_1.key)
    assert timed.progress("anna").state is not State.FAILED
    assert timed.lost_seconds() == 300


def test_a_task_that_is_put_off_again_and_again_fails_for_that_reason(queue):
    queue.submit("anna", [STAGE_1, A])
    assert queue.take("worker_group") == STAGE_1
    for _ in range(MAX_ATTEMPTS - 1):
        queue.postpone(STAGE_1.key, "away")
        assert queue.take("worker_group") == STAGE_1
    queue.report(STAGE_1.key, record(1))
    for _ in range(MAX_ATTEMPTS - 1):
        queue.postpone(STAGE_1.key, "away")
        assert queue.take("worker_group") == STAGE_1, "an epoch was finished: it may try again"
    queue.postpone(STAGE_1.key, "the bucket is away; see that it can be reached")
    assert queue.take("worker_group") == "wait"
    assert queue.progress("anna").state is State.FAILED
    assert queue.progress("anna").reason == "the bucket is away; see that it can be reached"


def test_a_worker_that_dies_after_its_task_was_put_off_is_said_to_have_died(queue):
    queue.submit("anna", [STAGE_1])
    queue.take("worker_group")
    queue.postpone(STAGE_1.key, "away")
    while queue.take("worker_group") != "wait":
        pass
    assert queue.progress("anna").reason.startswith("its workers died")


def test_patience_for_the_first_worker_ends(timed, clock):
    timed.submit("anna", [STAGE_1])
    clock.now += NO_WORKER_TIMEOUT_SECONDS
    assert timed.progress("anna").state is State.WAITING
    clock.now += 1
    progress = timed.progress("anna")
    assert progress.state is State.CLOSED
    assert progress.reason.startswith("no worker has sent a heartbeat for 20 minutes: the cluster has no room for one")


def test_patience_begins_anew_with_every_word_of_a_worker(timed, clock):
    timed.submit("anna", [STAGE_1])
    timed.take("worker_group")
    for _ in range(10):
        clock.now += NO_WORKER_TIMEOUT_SECONDS
        timed.heartbeat("worker_group")
    clock.now += NO_WORKER_TIMEOUT_SECONDS
    assert timed.progress("anna").state is State.RUNNING
    clock.now += 1
    assert timed.progress("anna").state is State.CLOSED


def test_where_others_may_make_room_it_is_waited_for_without_limit(clock):
    shared = TaskQueue(clock, scaled=True, idle_seconds=IDLE_TIMEOUT_SECONDS, waits=True)
    shared.submit("anna", [STAGE_1])
    clock.now += NO_WORKER_TIMEOUT_SECONDS
    assert shared.status() == status(1)
    clock.now += 100 * NO_WORKER_TIMEOUT_SECONDS
    assert shared.progress("anna").state is State.WAITING
    assert shared.status().silence.startswith(
        "no worker has sent a heartbeat for 20 minutes: the cluster has no room for one"
    )
    assert shared.take("late") == STAGE_1
    assert shared.status() == status(1, "late"), "nothing is the matter any more"


def test_the_task_of_a_silent_worker_group_goes_to_one_that_has_nothing_to_do(timed, clock):
    timed.submit("anna", [STAGE_1, A])
    timed.take("gone")
    clock.now += HEARTBEAT_TIMEOUT_SECONDS
    assert timed.take("idle") == "wait"
    clock.now += 1
    assert timed.take("idle") == "wait", "it is put back into the line now"
    assert timed.take("idle") == STAGE_1
    assert timed.take("gone") == "wait", "a worker group that comes back gets what there is"
    timed.report(STAGE_1.key, record(2))
    timed.finish(STAGE_1.key)
    assert timed.take("gone") == A


def test_a_worker_group_that_says_that_it_lives_keeps_its_task(timed, clock):
    timed.submit("anna", [STAGE_1])
    timed.take("slow")
    for _ in range(5):
        clock.now += HEARTBEAT_TIMEOUT_SECONDS
        timed.heartbeat("slow")
        assert timed.take("idle") == "wait"
    assert timed.take("idle") == "wait"


def test_a_worker_group_believed_gone_may_finish_its_task_all_the_same(timed, clock):
    timed.submit("anna", [STAGE_1])
    timed.take("slow")
    clock.now += HEARTBEAT_TIMEOUT_SECONDS + 1
    timed.take("idle")
    assert timed.take("idle") == STAGE_1
    for worker_group in ("slow", "idle"):
        timed.report(STAGE_1.key, record(2))
        timed.finish(STAGE_1.key)
        assert timed.take(worker_group) == "wait"
    assert epochs(timed.progress("anna")) == [2]


# worker groups that come and go


@pytest.fixture
def elastic(clock) -> TaskQueue:
    return TaskQueue(clock, scaled=True, idle_seconds=IDLE_TIMEOUT_SECONDS)


def status(tasks: int, *live: str) -> QueueStatus:
    return QueueStatus(live=frozenset(live), tasks=tasks)


def test_the_status_counts_what_runs_and_what_could(elastic):
    assert elastic.status() == status(0)
    elastic.submit("anna", [STAGE_1, A])
    elastic.submit("bert", [STAGE_1, B])
    assert elastic.status() == status(1), "both wait for the same stage"
    elastic.take("one")
    assert elastic.status() == status(1, "one")
    elastic.report(STAGE_1.key, record(2))
    elastic.finish(STAGE_1.key)
    assert elastic.status() == status(2, "one")
    elastic.take("one")
    elastic.take("two")
    assert elastic.status() == status(2, "one", "two")
    elastic.withdraw("bert")
    elastic.finish(B.key)
    assert elastic.status() == status(1, "one", "two")


def test_a_worker_group_that_is_silent_is_not_up_but_its_task_is_there(elastic, clock):
    elastic.submit("anna", [STAGE_1])
    elastic.take("gone")
    clock.now += HEARTBEAT_TIMEOUT_SECONDS + 1
    assert elastic.status() == status(1)
    elastic.heartbeat("gone")
    assert elastic.status() == status(1, "gone")


def test_a_worker_group_with_nothing_to_do_leaves_and_the_last_one_stays(elastic, clock):
    assert [elastic.take("one"), elastic.take("two")] == ["wait", "wait"]
    clock.now += IDLE_TIMEOUT_SECONDS - 1
    assert [elastic.take("one"), elastic.take("two")] == ["wait", "wait"]
    clock.now += 1
    assert elastic.take("one") == "stop"
    assert elastic.status() == status(0, "two")
    clock.now += 10 * IDLE_TIMEOUT_SECONDS
    assert elastic.take("two") == "wait"


def test_a_worker_group_that_waits_for_a_stage_others_train_leaves_too(elastic, clock):
    elastic.submit("anna", [STAGE_1, A])
    elastic.submit("bert", [STAGE_1, B])
    elastic.take("busy")
    for worker_group in ("two", "three"):
        elastic.take(worker_group)
    clock.now += IDLE_TIMEOUT_SECONDS
    assert [elastic.take("two"), elastic.take("three")] == ["stop", "stop"]
    elastic.report(STAGE_1.key, record(2))
    elastic.finish(STAGE_1.key)
    assert elastic.take("busy") == A
    assert elastic.status() == status(2, "busy"), "one more is worth its while now"
    assert elastic.take("four") == B


def test_work_interrupts_idleness(elastic, clock):
    elastic.take("one")
    elastic.take("two")
    clock.now += IDLE_TIMEOUT_SECONDS - 1
    elastic.submit("anna", [STAGE_1])
    assert elastic.take("two") == STAGE_1
    elastic.report(STAGE_1.key, record(2))
    elastic.finish(STAGE_1.key)
    clock.now += 1
    assert elastic.take("two") == "wait", "its time begins anew"
    assert elastic.take("one") == "stop"


def test_a_worker_group_stays_where_the_others_are_silent(elastic, clock):
    elastic.submit("anna", [STAGE_1])
    elastic.take("gone")
    elastic.take("idle")
    clock.now += HEARTBEAT_TIMEOUT_SECONDS + 1
    assert elastic.take("idle") == "wait"
    assert elastic.take("idle") == STAGE_1


def test_a_worker_group_that_was_told_to_stop_is_known_no_more(elastic, clock):
    elastic.take("one")
    elastic.take("two")
    clock.now += IDLE_TIMEOUT_SECONDS
    assert elastic.take("two") == "stop"
    elastic.heartbeat("two")  # its last word may be late
    assert elastic.status() == status(0, "one")
    assert elastic.take("two") == "wait", "it died before it heard, and was replaced"
    assert elastic.status() == status(0, "one", "two")


def test_without_come_and_go_a_worker_group_stays_for_ever(timed, clock):
    timed.take("one")
    timed.take("two")
    clock.now += 1000 * IDLE_TIMEOUT_SECONDS
    assert [timed.take("one"), timed.take("two")] == ["wait", "wait"]


def test_where_worker_groups_come_and_go_the_last_one_lost_closes_nothing(elastic, clock):
    elastic.submit("anna", [STAGE_1])
    elastic.take("one")
    clock.now += 2 * NO_WORKER_TIMEOUT_SECONDS
    elastic.heartbeat("one")
    elastic.worker_group_lost("one", "its controller died")
    assert elastic.progress("anna").state is State.WAITING, "patience begins with the last word"
    assert elastic.take("two") == STAGE_1
    elastic.worker_group_lost("two", "its controller died")
    clock.now += NO_WORKER_TIMEOUT_SECONDS + 1
    assert elastic.progress("anna").state is State.CLOSED
