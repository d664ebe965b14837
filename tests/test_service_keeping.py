"""Archive, labels, search and deletion: what lists show, and what a deletion leaves to others."""

import json
import shutil
from pathlib import Path
from typing import Any

import httpx2
import pytest
import sqlalchemy as sa
from fake_ray import SPEC, FakeRay
from served import eventually, finished, served
from sqlalchemy.engine import Connection

from lncis import files
from lncis.api import Action
from lncis.client import Client
from lncis.errors import ServiceError
from lncis.studies import folders
from lncis.studies.folders import REMOVED
from lncis.studies.record.logs import DRIVER, LOGS, Log
from service.auth import parse_tokens
from service.store import removal, tables
from service.store import studies as store
from service.store.database import Database


def rows(database: Database) -> dict[str, int]:
    every = (tables.studies, tables.trials, tables.stages, tables.stage_uses, tables.events, tables.idempotency_keys)
    count = sa.select(sa.func.count())
    return {
        table.name: database.read(lambda c, t=table: c.execute(count.select_from(t)).scalar_one()) for table in every
    }


def test_an_archived_study_is_left_out_and_comes_back(url: str, client: Client) -> None:
    first, second = finished(client), finished(client)
    archived = client.archive(first.id)
    assert archived.archived
    assert [study.id for study in client.list()] == [second.id]
    assert [study.id for study in client.list(archived=True)] == [first.id]
    assert client.archive(first.id) == archived  # again: nothing changes
    assert httpx2.get(timeout=60, url=url).text.count(first.id) == 0
    assert client.get(first.id).state == "succeeded"
    assert not client.unarchive(first.id).archived
    assert [study.id for study in client.list()] == [second.id, first.id]


def test_only_what_is_over_is_put_away(client: Client, ray: FakeRay) -> None:
    ray.hold_after = 0
    study = client.submit(SPEC)
    eventually(lambda: client.get(study.id).state == "running")
    for put_away, done in ((client.archive, "archived"), (client.delete, "deleted")):
        with pytest.raises(
            ServiceError, match=f"is running; only one that is over can be {done}: cancel it"
        ) as refused:
            put_away(study.id)
        assert refused.value.status == 409
        assert refused.value.legal == ["cancel", "pause", "drain"]


def test_studies_are_found_by_text_and_label(client: Client) -> None:
    gamma, other = finished(client, {**SPEC, "name": "gamma_100"}), finished(client, {**SPEC, "name": "other"})
    assert client.label(gamma.id, ["paper", "Table 6", "paper"]).labels == ["Table 6", "paper"]

    def found(**asked: Any) -> list[str]:
        return [study.id for study in client.list(**asked)]

    assert found(text="GAMMA") == found(text="table") == found(label="table 6") == [gamma.id]
    assert found(label="pap") == found(text="gamma%100") == []  # whole; no patterns
    assert found(text="local") == [other.id, gamma.id]  # the owner
    assert found(text="gamma", label="paper", state="failed") == []
    assert client.label(gamma.id, []).labels == []
    assert found(label="paper") == []


def test_labels_are_short_lines(url: str, client: Client) -> None:
    study = client.submit(SPEC)
    many = [str(number) for number in range(21)]
    for labels in ([""], [" a"], ["a "], ["a\nb"], ["x" * 41], [1], "paper", None, many):
        answer = httpx2.put(timeout=60, url=f"{url}/studies/{study.id}/labels", json={"labels": labels})
        assert answer.status_code == 422, labels
        assert answer.json()["errors"][0]["path"].startswith("body.labels")
        assert client.get(study.id).labels == []


def test_a_study_is_deleted_and_what_is_left_is_said(
    url: str, client: Client, tmp_path: Path, database: Database
) -> None:
    nothing = rows(database)
    kept = finished(client)
    before = rows(database)
    study = finished(client, key="once")
    folder, trial = tmp_path / "runs" / study.id, next(client.trials(study.id))
    Log(folder / LOGS, DRIVER).write("log\n")
    stage = folder / "stages" / trial.stages[-1]
    stage.mkdir(parents=True)
    (stage / "checkpoint.pt").write_bytes(bytes(1_000_000))
    in_store = tmp_path / "runs" / "stages" / trial.stages[-1]
    in_store.mkdir(parents=True)
    (in_store / "checkpoint.pt").hardlink_to(stage / "checkpoint.pt")
    (folder / "only-here").write_bytes(bytes(100_000))

    removed = client.delete(study.id)
    assert removed.id == study.id
    assert 100_000 < removed.bytes_freed < 200_000  # not what the store has a link to
    assert removed.stages == removed.stages_of_others > 0
    assert "least recently used are deleted when the store has more than 20 GB" in removed.left[0]
    assert removed.left[1:] == ["its runs in MLflow"]
    assert not folder.exists()
    assert (in_store / "checkpoint.pt").stat().st_size == 1_000_000
    assert rows(database) == before
    with pytest.raises(ServiceError, match="there is no study"):
        client.delete(study.id)
    assert finished(client, key="once").id != study.id  # the key is free again
    assert client.get(kept.id).state == "succeeded"
    assert nothing["studies"] == 0


def test_a_deletion_that_was_killed_is_repeated(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = finished(client)
    folders.hide_study(tmp_path / "runs", study.id)  # and then the service was killed
    assert client.get(study.id).state == "succeeded"
    assert list((tmp_path / "runs").glob(f"{REMOVED}*"))
    client.delete(study.id)
    assert not list((tmp_path / "runs").glob(f"{REMOVED}*"))


@pytest.mark.parametrize("part", ["events", "log/follow"])
def test_who_follows_a_study_that_is_deleted_is_told_so_at_the_next_request(
    url: str, client: Client, ray: FakeRay, database: Database, caplog: pytest.LogCaptureFixture, part: str
) -> None:
    ray.go_away()
    study = client.submit(SPEC)
    path = f"{url}/studies/{study.id}/{part}"

    def cancel_and_delete(connection: Connection) -> None:
        store.request_action(connection, study.id, Action.CANCEL)
        removal.remove_study(connection, study.id)

    with httpx2.stream("GET", path, trust_env=False, timeout=60) as stream:
        assert stream.status_code == 200
        database.write(cancel_and_delete)
        assert "event: end" not in "".join(stream.iter_text())
    assert not [record for record in caplog.records if record.levelname == "ERROR"]
    assert httpx2.get(path, trust_env=False).status_code == 404


def test_a_study_that_a_process_still_drives_is_not_deleted(client: Client, tmp_path: Path) -> None:
    study = finished(client)
    with (
        files.lock(tmp_path / "runs" / study.id / ".driver"),
        pytest.raises(ServiceError, match="is being run by another process") as refused,
    ):
        client.delete(study.id)
    assert refused.value.status == 409
    assert client.get(study.id).state == "succeeded"
    client.delete(study.id)


def test_where_another_study_begins_is_not_deleted(client: Client, ray: FakeRay) -> None:
    earlier = finished(client)
    ray.hold_after = 0
    sampler = {"type": "random", "configurations": 2, "warm_start": earlier.id}
    later = client.submit({**SPEC, "sampler": {**sampler, "type": "tpe"}})
    with pytest.raises(ServiceError, match=f"is where study {later.id} begins"):
        client.delete(earlier.id)
    client.cancel(later.id)
    eventually(lambda: client.get(later.id).over)
    client.delete(earlier.id)


def test_what_lies_at_a_storage_is_said(tmp_path: Path, database: Database, ray: FakeRay) -> None:
    root = (tmp_path / "bucket").as_uri()
    with served(tmp_path, database, ray_address=ray.address, storage=root) as url, Client(url) as client:
        alone = finished(client, {**SPEC, "sharing": False})
        assert f"{root}/{alone.id}, its own alone: delete them there" in client.delete(alone.id).left[0]
        shared = finished(client)
        assert f"{root}/stages, those of all studies" in client.delete(shared.id).left[0]


def test_readers_put_nothing_away(tmp_path: Path, database: Database, ray: FakeRay) -> None:
    tokens = parse_tokens("anna:write:secret-of-anna,bilal:read:secret-of-bilal")
    with served(tmp_path, database, ray_address=ray.address, tokens=tokens) as url:
        headers = {"Authorization": "Bearer secret-of-bilal"}
        for method, path in (("POST", "/archive"), ("POST", "/unarchive"), ("PUT", "/labels"), ("DELETE", "")):
            assert httpx2.request(method, timeout=60, url=f"{url}/studies/x{path}", headers=headers).status_code == 403
            assert httpx2.request(method, timeout=60, url=f"{url}/studies/x{path}").status_code == 401


def test_a_database_of_before_has_nothing_archived(tmp_path: Path) -> None:
    """Of migration 0003, with a study in it."""
    from alembic.command import upgrade
    from alembic.config import Config

    from service.store.database import MIGRATIONS, _engine

    address = f"sqlite:///{tmp_path / 'old.db'}"
    engine = _engine(address)
    with engine.connect().execution_options(lncis_write=True) as connection, connection.begin():
        config = Config()
        config.set_main_option("script_location", str(MIGRATIONS))
        config.attributes["connection"] = connection
        upgrade(config, "0003")
        old = sa.Table("studies", sa.MetaData(), autoload_with=connection)
        given = {column.name: 0 for column in old.c if column.name not in ("cost", "best", "mlflow_run")}
        texts = {"id": "old", "name": "old", "owner": "anna", "state": "failed", "reason": "", "spec": json.dumps({})}
        connection.execute(old.insert().values({**given, **texts, "number": 1, "job": "none", "wanted": "run"}))
    engine.dispose()
    database = Database(address)
    (study,) = database.read(lambda c: store.list_studies(c, before=None, limit=2))
    assert (study.id, study.archived, study.labels) == ("old", False, [])
    database.close()
    shutil.rmtree(tmp_path / "runs", ignore_errors=True)
