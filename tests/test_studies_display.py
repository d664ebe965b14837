import io

import pytest
from rich.console import Console

from lncis import documents
from lncis.commands import display
from lncis.commands.display import Display
from lncis.studies.plan import plan
from lncis.studies.spec import StudySpec


def lines(at_a_time, monkeypatch, earlier: int = 0) -> list[str]:
    """Return the lines of a study of one trial and four epochs: its start takes 60 s, each epoch 30 s, two here."""
    now = [0.0]
    monkeypatch.setattr(display.time, "monotonic", lambda: now[0])
    document = {
        "name": "s",
        "base": {"schedule": {"epochs": 4}},
        "search": {"loss.gamma": {"type": "categorical", "choices": [6.0]}},
        "resources": {"max_concurrent_trials": at_a_time},
    }
    planned = plan(documents.parse(StudySpec, document, source="test"))
    out = io.StringIO()
    shown = Display(planned.spec, "id", planned.sharing.trained, Console(file=out, width=200))
    ((trial, tasks),) = planned.trials
    with shown:
        shown.on_trial_start(trial, [*tasks])
        for epoch in range(1, earlier + 1):
            shown.on_epoch(trial, {"epoch": float(epoch), "seconds": 30.0})
        shown.on_session_start()
        now[0] = 60.0
        for epoch in range(earlier + 1, earlier + 3):
            now[0] += 30.0
            shown.on_epoch(trial, {"epoch": float(epoch), "seconds": 30.0})
    return [line.partition("  ")[0] for line in out.getvalue().splitlines() if "elapsed" in line]


def test_the_time_left_is_that_of_the_worker_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    assert lines(1, monkeypatch) == [
        "1:30 elapsed, 1/4 epochs, about 1:30 left",
        "2:00 elapsed, 2/4 epochs, about 1:00 left",
    ]
    assert lines(2, monkeypatch)[-1] == "2:00 elapsed, 2/4 epochs, about 0:30 left"


def test_with_auto_the_time_left_is_at_the_pace_so_far(monkeypatch: pytest.MonkeyPatch) -> None:
    assert lines("auto", monkeypatch) == [
        "1:30 elapsed, 1/4 epochs, about 4:30 left",
        "2:00 elapsed, 2/4 epochs, about 2:00 left",
    ]
    assert lines("auto", monkeypatch, earlier=1)[-1] == "2:00 elapsed, 3/4 epochs, about 1:00 left"
