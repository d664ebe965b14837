"""Journals copied into the database in parts: against the copy made at once, also where a service dies between two."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from simulated import GAMMAS, finished, study
from sqlalchemy.engine import Connection
from test_service_dispatcher import queued

from lncis import documents
from lncis.studies.spec import StudySpec
from service.dispatch import progress
from service.dispatch.progress import Follower
from service.settings import Settings
from service.store import tables
from service.store.database import Database, DatabaseAway

pytestmark = pytest.mark.usefixtures("journal_in_memory_of_the_disk")

SPEC = study(search={"loss.gamma": GAMMAS}, seeds=[0, 1], pruner={"type": "asha"})
COPIED = (tables.trials, tables.stages, tables.stage_uses, tables.events)
MINE = ("best", "cost", "journal_events", "events", "trials_started", "trials_finished", "trials_pruned", "epochs_done")


def run_study(database: Database, runs: Path) -> tuple[str, StudySpec]:
    """A study that is over and whose journal nobody has copied; as the database knows it."""
    row = queued(database, **{name: documents.dump(SPEC)[name] for name in ("base", "search", "seeds", "pruner")})
    if not (runs / "s").exists():
        finished(runs / "s", SPEC)
    (runs / row.id).symlink_to(runs / "s")
    return row.id, SPEC


def copied(database: Database, study_id: str) -> Any:
    def read(connection: Connection) -> Any:
        row = connection.execute(sa.select(tables.studies).where(tables.studies.c.id == study_id)).one()
        rows = []
        for table in COPIED:
            of_study = sa.select(table).where(table.c.study == row.number).order_by(*table.primary_key.columns)
            rows += [{**each._mapping, "study": 0} for each in connection.execute(of_study)]
        events = [each for each in rows if each.get("type") != "state"]  # whose time is that of the request
        return events, {name: getattr(row, name) for name in MINE}

    return database.read(read)


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    (tmp_path / "runs").mkdir()
    return tmp_path / "runs"


def followed(database: Database, runs: Path) -> tuple[str, Callable[[], None]]:
    study_id, spec = run_study(database, runs)
    return study_id, lambda: Follower(study_id, spec, Settings(runs=runs)).catch_up(database, final=True)


@pytest.mark.parametrize("size", [1, 7, 50])
def test_parts_come_to_the_same_as_the_whole(database: Database, runs: Path, monkeypatch: Any, size: int) -> None:
    whole, copy = followed(database, runs)
    copy()
    monkeypatch.setattr(progress, "PART_EVENTS", size)
    parts, copy = followed(database, runs)
    copy()
    assert copied(database, parts) == copied(database, whole)
    assert copied(database, parts)[1]["best"] is not None


def test_a_service_that_dies_between_two_parts_loses_and_repeats_nothing(
    database: Database, runs: Path, monkeypatch: Any
) -> None:
    whole, copy = followed(database, runs)
    copy()
    monkeypatch.setattr(progress, "PART_EVENTS", 7)
    parts, copy = followed(database, runs)
    events = copied(database, whole)[1]["journal_events"]
    write, seen = database.write, []

    def until(allowed: int) -> Callable[[Any], Any]:
        left = iter(range(allowed))

        def write_or_die(work: Any) -> Any:
            if next(left, None) is None:
                raise DatabaseAway("it died")
            result = write(work)
            seen.append(copied(database, parts)[1])
            return result

        return write_or_die

    for allowed in (1, 0, 2, 4):  # each begins anew, as the next service does; those before it may have come further
        monkeypatch.setattr(database, "write", until(allowed))
        with pytest.raises(DatabaseAway):
            copy()
    monkeypatch.setattr(database, "write", until(events))
    copy()
    assert copied(database, parts) == copied(database, whole)
    for name in ("journal_events", "events", "trials_started", "trials_finished", "trials_pruned", "epochs_done"):
        counts = [each[name] for each in seen]
        assert counts == sorted(counts), f"{name} went back"
