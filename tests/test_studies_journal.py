import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lncis.errors import StudyError
from lncis.studies.record.journal import (
    JOURNAL,
    End,
    EpochFinished,
    Event,
    Journal,
    SessionEnded,
    SessionStarted,
    TrialEnded,
    TrialRetried,
    TrialStarted,
    WorkerGroupsUp,
    read,
    sole_driver,
    trial_of,
)
from lncis.studies.spec import StudySpec

STARTED = TrialStarted(
    configuration=1,
    overrides={"loss.gamma": math.inf, "precision": "bf16", "schedule.stage1_epochs": None, "batch_size": 4},
    seed=3,
    noise_seed=None,
    baseline=None,
    stages={"s1": 6, "s2": 12},
    reused=["s1"],
)
EVENTS: list[Event] = [
    SessionStarted(worker_groups=2, versions={"lncis": "0.1.0"}, code="abc", storage=""),
    STARTED,
    WorkerGroupsUp(worker_groups=2),
    EpochFinished(trial=STARTED.trial, record={"epoch": 1.0, "lr": 1e-3, "seconds": 0.1 + 0.2}, reused=False),
    EpochFinished(trial=STARTED.trial, record={"epoch": 2.0, "val/segm_AP": -1 / 3}, reused=True),
    TrialEnded(trial=STARTED.trial, end=End.FAILED, reason='the loss is nan\nin epoch 3 \u2013 "lower" lr'),
    TrialRetried(trial=STARTED.trial),
    SessionEnded(reason="KeyboardInterrupt", lost_seconds=1.5),
]


def written(folder: Path, events: list[Event] = EVENTS) -> Path:
    journal = Journal(folder)
    for event in events:
        journal.append(event)
    journal.close()
    return folder / JOURNAL


def test_what_is_written_is_read(tmp_path):
    path = written(tmp_path)
    assert read(tmp_path) == EVENTS
    assert path.read_text().count("\n") == len(EVENTS)
    assert [json.loads(line)["event"] for line in path.read_text().splitlines()][:2] == [
        "session_started",
        "trial_started",
    ]


def test_figures_that_are_not_finite_survive(tmp_path):
    record = {"epoch": 1.0, "train/loss": math.nan, "lr": math.inf}
    written(tmp_path, [EpochFinished(trial="t", record=record, reused=False)])
    (found,) = read(tmp_path)
    assert repr(found.record) == repr(record)


def test_a_study_without_a_journal_has_no_events(tmp_path):
    assert read(tmp_path) == []


def test_each_event_is_on_disk_when_append_returns(tmp_path):
    journal = Journal(tmp_path)
    for number, event in enumerate(EVENTS, start=1):
        journal.append(event)
        assert read(tmp_path) == journal.events == EVENTS[:number]
    journal.close()


def test_another_session_goes_on_in_the_same_file(tmp_path):
    written(tmp_path, EVENTS[:4])
    written(tmp_path, EVENTS[4:])
    assert read(tmp_path) == EVENTS


def test_a_journal_cut_anywhere_counts_its_whole_lines_and_goes_on_after_them(tmp_path):
    whole = written(tmp_path).read_bytes()
    ends = [number + 1 for number, byte in enumerate(whole) if byte == ord("\n")]
    for cut in range(0, len(whole) + 1, 7):
        (tmp_path / JOURNAL).write_bytes(whole[:cut])
        known = sum(end <= cut for end in ends)
        assert read(tmp_path) == EVENTS[:known]
        written(tmp_path, EVENTS[known:])
        assert (tmp_path / JOURNAL).read_bytes() == whole


@pytest.mark.parametrize(
    "line",
    [b"{}\n", b"\n", b"not json\n", b'{"event": "trial_ended", "trial": "t"}\n', b'{"event": "won"}\n', b"\0\0\n"],
)
def test_a_line_that_makes_no_sense_is_named(tmp_path, line):
    path = written(tmp_path)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:2], line, *lines[2:]]))
    with pytest.raises(StudyError, match=rf"{path}, line 3 is not an event of a study: "):
        read(tmp_path)
    with pytest.raises(StudyError, match="line 3"):
        Journal(tmp_path)


def fill(disk: Path) -> Path:
    room = os.statvfs(disk)
    (disk / "ballast").write_bytes(b"x" * room.f_bavail * room.f_bsize)
    return disk / "ballast"


def test_a_full_disk_delays_events_and_loses_none(small_disk):
    journal = Journal(small_disk)
    journal.append(EVENTS[0])
    ballast = fill(small_disk)
    long = EpochFinished(
        trial="t", record={f"figure {n}": float(n) for n in range(1000)}, reused=False
    )  # more than the last page
    for event in (long, *EVENTS[1:4]):
        journal.append(event)
    assert journal.events == [EVENTS[0], long, *EVENTS[1:4]]
    assert read(small_disk) == [EVENTS[0]], "half a line counts for nothing"
    ballast.unlink()
    journal.append(EVENTS[4])
    assert read(small_disk) == [EVENTS[0], long, *EVENTS[1:5]]
    journal.close()


def test_what_a_full_disk_kept_out_is_said_in_the_end(small_disk):
    journal = Journal(small_disk)
    fill(small_disk)
    journal.append(EVENTS[0])
    with pytest.raises(StudyError, match="could not be written to its end: is the disk full"):
        journal.close()


HOLD = """
import sys, time; from pathlib import Path
from lncis.studies.record.journal import sole_driver
with sole_driver(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.mark.processes
def test_one_process_drives_a_study_and_a_killed_one_holds_nothing(tmp_path):
    with subprocess.Popen([sys.executable, "-c", HOLD, tmp_path], stdout=subprocess.PIPE) as other:
        try:
            assert other.stdout.readline() == b"held\n"
            with (
                pytest.raises(StudyError, match=f"study {tmp_path.name} is being run by another process"),
                sole_driver(tmp_path),
            ):
                pass
        finally:
            other.send_signal(signal.SIGKILL)
        other.wait()
    with sole_driver(tmp_path):
        pass
    with sole_driver(tmp_path):  # and one that is through neither
        pass


def test_a_started_trial_is_found_again():
    spec = StudySpec(
        name="s",
        search={"loss.gamma": {"type": "categorical", "choices": [4.0, 6.0]}},
        seeds=[0, 3],
        noise_seeds=[1, 2],
        folds=2,
    )
    for trial in spec.trials(1, {"loss.gamma": 6.0}):
        event = TrialStarted(
            configuration=1,
            overrides=trial.overrides,
            seed=trial.seed,
            noise_seed=trial.noise_seed,
            fold=trial.fold,
            baseline=None,
            stages={},
            reused=[],
        )
        assert event.trial == trial.name
        assert trial_of(spec, event) == trial


def test_an_epoch_belongs_to_the_stage_that_ends_with_it_or_later():
    assert [STARTED.stage_of(epoch) for epoch in (1, 6, 7, 12)] == ["s1", "s1", "s2", "s2"]
