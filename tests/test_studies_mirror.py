"""The journal sent to an MLflow that fails at random: the client is made up, lncis.tracking above it is real."""

import json
import random
import threading
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import pytest
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import PERMISSION_DENIED

from lncis import documents, tracking
from lncis.studies.driver import mirror as mirrors
from lncis.studies.driver.mirror import Mirror, flat
from lncis.studies.folders import MLFLOW_RUN
from lncis.studies.record.journal import End, EpochFinished, Event, TrialEnded, TrialRetried, TrialStarted
from lncis.studies.spec import StudySpec
from lncis.studies.stages.tree import StageTree

SPEC = StudySpec(
    name="s",
    base={"schedule": {"epochs": 4, "stage1_epochs": 2}},
    search={"loss.gamma": {"type": "categorical", "choices": [4.0, 6.0, 8.0]}},
    seeds=[0, 1],
)


class Mlflow:
    """What a tracking server keeps. Each call may fail, before it has an effect or after."""

    def __init__(self, failures: float = 0.0, seed: int = 0) -> None:
        self.runs: dict[str, SimpleNamespace] = {}
        self.experiments: dict[str, str] = {}
        self.failures, self.away, self.refuses, self.lock = failures, False, False, threading.Lock()
        self.deleted: set[str] = set()
        self._draw, self._ids = random.Random(seed), count()

    def client(self, uri: str) -> "Mlflow":
        return self

    def _call(self, effect):
        with self.lock:
            if self.away or self._draw.random() < self.failures:
                raise ConnectionError("MLflow is away")
            if self.refuses:
                raise MlflowException("alice may not do that", PERMISSION_DENIED)
            answer = effect()
            if self._draw.random() < self.failures:
                raise TimeoutError("MLflow did not answer")
            return answer

    def get_experiment_by_name(self, name):
        found = self.experiments.get(name)
        stage = "deleted" if found in self.deleted else "active"
        return self._call(lambda: found and SimpleNamespace(experiment_id=found, lifecycle_stage=stage))

    def restore_experiment(self, experiment):
        self._call(lambda: self.deleted.discard(experiment))

    def create_experiment(self, name, artifact_location):
        return self._call(lambda: self.experiments.setdefault(name, str(next(self._ids))))

    def create_run(self, experiment, run_name, tags):
        def effect():
            run_id = str(next(self._ids))
            info = SimpleNamespace(run_id=run_id, status="RUNNING")
            data = SimpleNamespace(tags=dict(tags))
            self.runs[run_id] = SimpleNamespace(
                info=info, data=data, name=run_name, metrics=set(), params={}, artifacts=[], experiment=experiment
            )
            return self._copy(run_id)

        return self._call(effect)

    def _copy(self, run_id):
        """What a client gets is a snapshot."""
        run = self.runs[run_id]
        return SimpleNamespace(info=SimpleNamespace(**vars(run.info)), data=SimpleNamespace(tags=dict(run.data.tags)))

    def search_runs(self, experiments, filter_string, max_results, page_token=None):
        name, _, value = filter_string.removeprefix("tags.").partition(" = ")
        name, value = name.strip("`"), value.strip("'")
        found = [run_id for run_id, run in self.runs.items() if run.data.tags.get(name) == value]

        class Page(list):
            token = None

        return self._call(lambda: Page(map(self._copy, found)))

    def update_run(self, run_id, status):
        self._call(lambda: setattr(self.runs[run_id].info, "status", status))

    set_terminated = update_run

    def log_batch(self, run_id, metrics=(), params=(), tags=()):
        def effect():
            run = self.runs[run_id]
            run.metrics |= {(m.key, m.value, m.timestamp, m.step) for m in metrics}
            run.params |= {p.key: p.value for p in params}
            run.data.tags |= {t.key: t.value for t in tags}

        self._call(effect)

    def set_tag(self, run_id, key, value):
        self._call(lambda: self.runs[run_id].data.tags.update({key: value}))

    def log_artifact(self, run_id, path):
        self._call(lambda: self.runs[run_id].artifacts.append(Path(path).name))

    def parts(self) -> dict[str, list[SimpleNamespace]]:
        found: dict[str, list[SimpleNamespace]] = {}
        for run in self.runs.values():
            found.setdefault(run.data.tags.get(tracking.PART_TAG, "study"), []).append(run)
        return found


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Mlflow:
    server = Mlflow()
    monkeypatch.setattr(tracking.mlflow, "MlflowClient", server.client)
    monkeypatch.setattr(mirrors, "BACKOFF_SECONDS", (0.001,))
    wait = threading.Event.wait
    monkeypatch.setattr(threading.Event, "wait", lambda self, timeout=None: wait(self, timeout and min(timeout, 0.005)))
    return server


def record(epoch: int, value: float) -> dict[str, float]:
    return {"epoch": float(epoch), "lr": 1e-3, "seconds": 1.0, "val/segm_AP": value}


def course(folder: Path) -> list[Event]:
    """Six trials two at a time; one fails and is tried again, the seeds of gamma = 8 are pruned after epoch 3."""
    chain, now, events = StageTree(SPEC, folder).chain, count(1000), []

    def trial(number: int, seed: int) -> str:
        made = SPEC.trials(number, SPEC.grid[number])[seed]
        started = TrialStarted(
            time=next(now),
            configuration=number,
            overrides=made.overrides,
            seed=seed,
            noise_seed=None,
            baseline=None,
            stages={task.key: task.until for task in chain(made)},
            reused=[],
        )
        events.append(started)
        return started.trial

    def epochs(names: list[str], *numbers: int) -> None:
        for number in numbers:
            for name in names:
                value = number + int(name[-1]) / 2 + (int(name[3]) / 4 if number > 2 else 0)  # stage 1 is shared
                events.append(EpochFinished(time=next(now), trial=name, record=record(number, value), reused=False))

    def end(name: str, how: End = End.FINISHED) -> None:
        reason = "" if how is End.FINISHED else f"{how} for a reason"
        events.append(TrialEnded(time=next(now), trial=name, end=how, reason=reason))

    one, other, third = trial(0, 0), trial(0, 1), trial(1, 0)
    epochs([one, third, other], 1, 2, 3)
    epochs([one], 4)
    end(one)
    end(third, End.FAILED)
    fourth = trial(1, 1)
    epochs([other, fourth], 4)
    epochs([fourth], 1, 2, 3)
    end(other)
    end(fourth)
    pruned = [trial(2, 0), trial(2, 1)]
    epochs(pruned, 1, 2, 3)
    for name in pruned:
        end(name, End.PRUNED)
    events.append(TrialRetried(time=next(now), trial=third))
    epochs([third], 4)
    end(third)
    return events


def expected(events: list[Event]) -> dict[str, dict[int, float]]:
    """The objective of each trial and shared stage by epoch, straight from the journal."""
    started = {e.trial: e for e in events if isinstance(e, TrialStarted)}
    curves: dict[str, dict[int, float]] = {}
    for event in events:
        if isinstance(event, EpochFinished):
            epoch, value = int(event.record["epoch"]), event.record["val/segm_AP"]
            stage = started[event.trial].stage_of(epoch)
            shared = stage != list(started[event.trial].stages)[-1]
            for part in (event.trial, *([stage] if shared else [])):
                curves.setdefault(part, {})[epoch] = value
    return curves


def check(server: Mlflow, events: list[Event], status: str = "FINISHED") -> None:
    parts = server.parts()
    (study,) = parts.pop("study")
    assert study.info.status == status
    assert parts.keys() == expected(events).keys()
    for part, curve in expected(events).items():
        (run,) = (run for run in parts[part] if run.metrics)
        points = sorted((step, value) for key, value, _, step in run.metrics if key == "val/segm_AP")
        assert points == sorted(curve.items()), f"{part}: each epoch once"
        assert run.data.tags["mlflow.parentRunId"] == study.info.run_id
    ends = {e.trial: e for e in events if isinstance(e, TrialEnded)}
    for name, last in ends.items():
        (run,) = parts[name]
        assert run.info.status == {"finished": "FINISHED", "failed": "FAILED", "pruned": "KILLED"}[last.end]
        made = SPEC.trials(int(name[:4]), SPEC.grid[int(name[:4])])[int(name[-1])]
        assert run.params == {key: str(value) for key, value in flat(documents.dump(made.config)).items()}


def follow(
    events: list[Event], pause: float = 0.0, then: Callable[[list[str]], None] = lambda notes: None, **last
) -> list[str]:
    notes, journal = list[str](), list[Event]()
    mirror = Mirror(SPEC, Path("s-1").absolute(), journal, {}, notes.append)
    mirror.start()
    for event in events:
        journal.append(event)
        time.sleep(pause)
    then(notes)
    mirror.finish(**{"status": "FINISHED", "metrics": {"best/val/segm_AP": 5.0}, "timeout_seconds": 300, **last})
    return notes


@pytest.fixture
def events() -> list[Event]:
    return course(Path("s-1/stages"))


def test_all_is_sent_once(server, events):
    follow(events)
    check(server, events)
    (study,) = server.parts()["study"]
    assert {(key, value) for key, value, _, _ in study.metrics} == {("best/val/segm_AP", 5.0)}
    ids = {"experiment_id": server.experiments["s"], "run_id": study.info.run_id}
    assert json.loads(Path("s-1", MLFLOW_RUN).read_text()) == ids


def test_all_is_sent_once_while_it_happens(server, events):
    follow(events, pause=0.002)
    check(server, events)


@pytest.mark.parametrize("seed", range(10))
def test_all_is_sent_once_by_a_server_that_fails_now_and_then(server, events, seed):
    server.failures = 0.03
    server._draw.seed(seed)
    follow(events, pause=0.001)
    server.failures = 0
    check(server, events)


def test_an_outage_is_noted_once_and_so_is_its_end(server, events):
    server.away = True

    def come_back(notes: list[str]) -> None:
        """Only when all has happened."""
        while not notes:
            time.sleep(0.01)
        server.away = False

    away, back = follow(events, then=come_back)
    check(server, events)
    assert "is away (ConnectionError: MLflow is away); training goes on" in away
    assert "answers again, and was sent what it missed" in back


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_server_that_stays_away_is_given_up_and_the_next_session_sends_the_rest(server, events, monkeypatch):
    server.away = True
    notes = follow(events[:20], status="KILLED", timeout_seconds=0.3)
    assert "does not answer; nothing is lost: resume the study" in notes[-1]

    def end_of_the_process(uri):
        raise SystemExit

    monkeypatch.setattr(tracking.mlflow, "MlflowClient", end_of_the_process)
    while any(thread.name == "mlflow" for thread in threading.enumerate()):
        time.sleep(0.01)
    server.away = False
    monkeypatch.setattr(tracking.mlflow, "MlflowClient", server.client)
    follow(events)
    check(server, events)


def test_a_server_that_refuses_is_not_waited_for_and_the_next_session_sends_the_rest(server, events):
    server.refuses = True
    started = time.monotonic()
    (note,) = follow(events)
    assert time.monotonic() - started < 10
    assert "is sent nothing more: MlflowException: alice may not do that; training goes on; resume the study" in note
    server.refuses = False
    assert follow(events) == []
    check(server, events)


def test_an_experiment_that_was_deleted_is_restored_with_a_note(server, events):
    follow(events[:20])
    server.deleted.update(server.experiments.values())
    (note,) = follow(events)
    assert note == "MLflow's experiment s was deleted; it is restored with its runs"
    check(server, events)


def test_notes_hold_no_password(server, events, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://alice:S3cret@mlflow.example.org")
    server.away = True
    notes = follow(events[:20], timeout_seconds=0.3)
    server.away = False
    while any(thread.name == "mlflow" for thread in threading.enumerate()):
        time.sleep(0.01)
    assert any("MLflow at http://mlflow.example.org is away" in note for note in notes)
    assert not any("S3cret" in note for note in notes)


def test_the_run_of_a_stopped_study_is_killed_and_goes_on_when_it_is_resumed(server, events):
    middle = next(i for i, e in enumerate(events) if isinstance(e, EpochFinished) and e.record["epoch"] == 3) + 1
    follow(events[:middle], status="KILLED", reason="KeyboardInterrupt")
    parts = server.parts()
    assert parts["study"][0].info.status == "KILLED"
    assert parts["study"][0].data.tags["lncis.reason"] == "KeyboardInterrupt"
    assert {run.info.status for runs in parts.values() for run in runs} <= {"KILLED", "FINISHED"}, (
        "nothing is left open"
    )
    follow(events)
    check(server, events)


def test_a_trial_that_is_retried_in_a_later_session_goes_on_in_its_run(server, events):
    retried = next(i for i, e in enumerate(events) if isinstance(e, TrialRetried))
    follow(events[:retried])
    follow(events)
    check(server, events)
    follow(events)  # a third session, with nothing new
    check(server, events)


def test_a_map_of_class_names_is_one_parameter_where_mlflow_refuses_its_names():
    from mlflow.utils.validation import _validate_param_name

    found = flat({"noise": {"rate": 0.4, "map": {"bus (red)": "car"}}, "model": {"name": "x", "sizes": [1, 2]}})
    assert found == {"noise.rate": 0.4, "noise.map": '{"bus (red)": "car"}', "model.name": "x", "model.sizes": "[1, 2]"}
    for key in found:
        _validate_param_name(key)
