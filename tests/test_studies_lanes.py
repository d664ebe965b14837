"""How many lanes there are: the decision by hand, and a cluster simulated from it."""

import pytest

from lncis.studies.lanes import to_follow, to_start

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
def test_lanes_to_start(tasks, up, coming, most, where, expected):
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
    """Return how many lanes train at each look, with `places` in the cluster by then and endless trials."""
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
