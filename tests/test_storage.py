"""One contract over a folder, an S3-compatible server and an fsspec file system, and what may happen to each."""

import os
import secrets
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from object_store import KEY, SECRET, ObjectStore, serving
from pyarrow import fs

from lncis.errors import StorageAwayError, StorageError
from lncis.execution import objects, storage
from lncis.execution.storage import MANIFEST

FIRST = {"checkpoint.pt": b"one" * 1000, "noise.json": b"[]"}
SECOND = {"checkpoint.pt": b"two" * 1000, "noise.json": b"[]", "loss_histograms.json": b"{}"}


@pytest.fixture(scope="module")
def s3() -> Iterator[ObjectStore]:
    with pytest.MonkeyPatch.context() as patch, serving() as store:
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")  # or who has no credentials asks the network for some
        yield store


@dataclass
class Place:
    """Where a folder is published, and its objects as others than pyarrow see them."""

    url: str
    s3: ObjectStore
    name: str

    def objects(self) -> dict[str, bytes]:
        if self.url.startswith("s3"):
            return self.s3.objects(self.name)
        if self.url.startswith("file"):
            return {path.name: path.read_bytes() for path in Path(self.name).iterdir()}
        memory = self._memory()
        if not memory.exists(f"/{self.name}"):
            return {}
        return {path.rpartition("/")[2]: memory.cat(path) for path in memory.ls(f"/{self.name}", detail=False)}

    def put(self, name: str, content: bytes) -> None:
        if self.url.startswith("s3"):
            self.s3.put(self.name, name, content)
        elif self.url.startswith("file"):
            Path(self.name, name).write_bytes(content)
        else:
            self._memory().pipe(f"/{self.name}/{name}", content)

    def object_of(self, file: str) -> str:
        (name,) = (name for name in self.objects() if f"-{file}" in name)
        return name

    def _memory(self) -> Any:
        import fsspec

        return fsspec.filesystem("memory")


@pytest.fixture(params=["file", "s3", "memory"])
def place(request, s3: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.setattr(objects, "BACKOFF_SECONDS", (0.01, 0.01))
    monkeypatch.setattr(storage, "REREAD_SECONDS", (0.01, 0.01))
    name = f"study {secrets.token_hex(4)}"  # a blank, as people's folders have
    if request.param == "s3":
        return Place(objects.below(s3.url("stages"), name), s3, f"stages/{name}")
    if request.param == "memory":
        return Place(f"fsspec+memory:///{name}", s3, name)
    return Place(objects.below(objects.resolved(str(tmp_path)), "stages", name), s3, f"stages/{name}")


def folder(content: dict[str, bytes], name: str = "mine") -> Path:
    made = Path(name)
    made.mkdir(exist_ok=True)
    for path in made.iterdir():
        path.unlink()
    for file, data in content.items():
        (made / file).write_bytes(data)
    return made


def fetched(url: str) -> tuple[int | None, dict[str, bytes]]:
    epoch = storage.fetch(url, Path("theirs"))
    return epoch, {path.name: path.read_bytes() for path in Path("theirs").iterdir()}


def test_what_is_published_is_what_readers_find(place):
    assert storage.published_epoch(place.url) is None
    mine = folder(FIRST | {".trainer": b"", ".checkpoint.pt.1": b"half"})
    (mine / "sub").mkdir()
    assert storage.publish(mine, place.url, 1)
    assert storage.published_epoch(place.url) == 1
    assert fetched(place.url) == (1, FIRST)
    (mine / "sub").rmdir()
    assert storage.publish(folder(SECOND), place.url, 2)
    assert storage.published_epoch(place.url) == 2
    assert fetched(place.url) == (2, SECOND)
    assert len(place.objects()) == len(SECOND) + 1, "what came before is removed"
    assert storage.publish(folder(SECOND), place.url, 2), "once more"
    assert fetched(place.url) == (2, SECOND)


def test_where_nothing_is_published_nothing_stays(place):
    folder(FIRST, "theirs")
    assert fetched(place.url) == (None, {})


def test_what_is_published_counts_even_where_the_local_one_is_ahead(place):
    storage.publish(folder(FIRST), place.url, 1)
    folder(SECOND, "theirs")
    assert fetched(place.url) == (1, FIRST)


def test_what_is_here_is_not_fetched_again_and_files_can_be_chosen(place):
    storage.publish(folder(SECOND), place.url, 2)
    assert storage.fetch(place.url, Path("theirs"), only=("noise.json", "none.json")) == 2
    assert [path.name for path in Path("theirs").iterdir()] == ["noise.json"]
    before = Path("theirs/noise.json").stat().st_ino
    assert fetched(place.url) == (2, SECOND)
    assert Path("theirs/noise.json").stat().st_ino == before


def test_a_file_of_several_chunks(place, monkeypatch):
    monkeypatch.setattr(objects, "CHUNK_BYTES", 2**20)
    large = {"checkpoint.pt": secrets.token_bytes(11 * 2**20 + 1)}  # S3 takes it in parts
    storage.publish(folder(large), place.url, 1)
    assert fetched(place.url) == (1, large)


def test_a_late_epoch_does_not_replace_a_later_one(place):
    storage.publish(folder(SECOND), place.url, 2)
    assert not storage.publish(folder(FIRST), place.url, 1)
    assert fetched(place.url) == (2, SECOND)


def test_nor_does_one_that_was_overtaken_while_it_was_published(place, monkeypatch):
    put, overtaken = objects.put, []

    def slow(where, name, content):
        if name.endswith(MANIFEST) and not overtaken:
            overtaken.append(name)
            storage.publish(folder(SECOND, "other"), place.url, 2)
        put(where, name, content)

    monkeypatch.setattr(objects, "put", slow)
    storage.publish(folder(FIRST), place.url, 1)
    assert overtaken == ["000001-manifest.json"]
    assert storage.published_epoch(place.url) == 2
    assert fetched(place.url) == (2, SECOND)
    third = {"checkpoint.pt": b"three"}
    storage.publish(folder(third), place.url, 3)
    assert fetched(place.url) == (3, third)
    assert len(place.objects()) == 2, "what the late one left goes too"


def test_a_reader_whose_objects_are_replaced_takes_the_later_ones(place, monkeypatch):
    storage.publish(folder(FIRST), place.url, 1)
    chunks, replaced = objects.chunks, []

    def slow(where, name):
        if not name.endswith(MANIFEST) and not replaced:
            replaced.append(name)
            storage.publish(folder(SECOND), place.url, 2)
        return chunks(where, name)

    monkeypatch.setattr(objects, "chunks", slow)
    assert fetched(place.url) == (2, SECOND)
    assert replaced


def flipped(content: bytes) -> bytes:
    return content[:100] + bytes([content[100] ^ 1]) + content[101:]


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (flipped, "is damaged: it is not what was published"),
        (lambda content: content[:-1], "is damaged: it has 2999 bytes, and had 3000"),
    ],
)
def test_a_damaged_object_is_refused_and_what_was_here_stays(place, damage, said):
    storage.publish(folder(FIRST), place.url, 1)
    name = place.object_of("checkpoint.pt")
    place.put(name, damage(place.objects()[name]))
    folder({"checkpoint.pt": b"mine"}, "theirs")
    with pytest.raises(
        StorageError, match=rf"{name} {said}.*delete what lies below that URL, and it is trained"
    ) as told:
        storage.fetch(place.url, Path("theirs"))
    assert SECRET not in str(told.value)
    assert Path("theirs/checkpoint.pt").read_bytes() == b"mine"
    assert not list(Path("theirs").glob(".*"))


@pytest.mark.parametrize("content", [b"", b'{"epoch": 1, "files": {"checkpoint.pt', b'{"epoch": 1}'])
def test_a_damaged_manifest_is_refused(place, content):
    storage.publish(folder(FIRST), place.url, 1)
    place.put(place.object_of(MANIFEST), content)
    with pytest.raises(StorageError, match=r"000001-manifest.json is damaged"):
        storage.fetch(place.url, Path("theirs"))


def test_a_manifest_cannot_name_a_file_elsewhere(place):
    storage.publish(folder(FIRST), place.url, 1)
    name = place.object_of(MANIFEST)
    place.put(name, place.objects()[name].replace(b'"noise.json"', b'"../noise.json"'))
    with pytest.raises(StorageError, match=r"names a file outside of its folder, '../noise.json'"):
        storage.fetch(place.url, Path("theirs"))
    assert not Path("noise.json").exists()


PUBLISH = """
import os, sys, time
from io import BytesIO
from pathlib import Path
from lncis.execution import objects, storage
put, delete, writes = objects.put, objects.delete, []

class Stalling(BytesIO):
    def read(self, size=-1):
        if self.tell():
            stall()
        return super().read(100_000)

def stall():
    print("now", flush=True)
    time.sleep(60)

def counted(place, name, content):
    if len(writes) == when:
        stall()
    if len(writes) + 0.5 == when:
        content.seek(0)
        content = Stalling(content.read())
    writes.append(name)
    put(place, name, content)

if sys.argv[2] == "delete":
    when, objects.delete = -1, lambda place, name: stall()
else:
    when, objects.put = float(sys.argv[2]), counted
storage.publish(Path("mine"), sys.argv[1], 2)
"""


@pytest.mark.parametrize("place", ["file", "s3"], indirect=True)
@pytest.mark.parametrize("when", ["0", "0.5", "1", "2", "delete"])
@pytest.mark.processes
def test_a_publisher_that_is_killed_leaves_the_old_state_or_the_new_one(place, when):
    storage.publish(folder(FIRST), place.url, 1)
    new = {"checkpoint.pt": b"two" * 100_000, "noise.json": b"[]"}
    folder(new)
    process = subprocess.Popen([sys.executable, "-c", PUBLISH, place.url, when], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"now\n"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert fetched(place.url) == ((2, new) if when == "delete" else (1, FIRST))
    storage.publish(folder(new), place.url, 2)
    assert fetched(place.url) == (2, new)
    storage.publish(folder(SECOND), place.url, 3)
    left = [name for name in place.objects() if not name.startswith((".", "000003-"))]
    assert not left, "what the killed one left goes with the next epoch"


def test_a_storage_that_fails_a_few_times_is_asked_again(place, monkeypatch):
    put, failures = objects.put, [2, 2, 2]  # the two files and the manifest

    def failing(where, name, content):
        content.read(7)
        if failures[0]:
            failures[0] -= 1
            raise objects.Away("AWS Error SLOW_DOWN")
        failures.pop(0)
        put(where, name, content)

    monkeypatch.setattr(objects, "put", failing)
    storage.publish(folder(FIRST), place.url, 1)
    assert not failures
    assert fetched(place.url) == (1, FIRST)


def test_a_server_that_comes_back_is_waited_for(s3):
    url = s3.url("away")
    storage.publish(folder(FIRST), url, 1)
    s3.stop()
    back = threading.Timer(1.0, s3.start)
    back.start()
    try:
        assert storage.publish(folder(SECOND), url, 2)
    finally:
        back.join()
    assert fetched(url) == (2, SECOND)


@pytest.mark.parametrize("methods", ["GET", "HEAD", "POST", "PUT"])
def test_a_server_that_answers_that_it_is_not_well_is_asked_again(s3, monkeypatch, methods):
    """As for wrong credentials, its answer has no body. Amazon's own library does not insist on what 501 means."""
    monkeypatch.setattr(objects, "BACKOFF_SECONDS", (0.01, 0.01))
    url = s3.url(f"unwell-{methods}")
    with s3.failing(501, 2, methods):
        assert storage.publish(folder(FIRST), url, 1)
        assert fetched(url) == (1, FIRST)


@pytest.fixture
def impatient(s3: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Amazon's library insists for two requests, and not for six seconds."""

    def opened(url: str) -> tuple[Any, str]:
        twice = fs.AwsStandardS3RetryStrategy(max_attempts=2)
        where = {"endpoint_override": s3.endpoint, "scheme": "http", "region": "us-east-1"}
        system = fs.S3FileSystem(access_key=KEY, secret_key=SECRET, retry_strategy=twice, **where)
        return system, f"{s3.bucket}{urlsplit(url).path}"

    monkeypatch.setattr(objects, "_file_system", opened)


def test_a_server_that_is_overloaded_for_longer_than_amazons_library_insists_is_asked_again(s3, impatient, monkeypatch):
    monkeypatch.setattr(objects, "BACKOFF_SECONDS", (0.01,))
    with s3.failing(503, 3):
        assert storage.publish(folder(FIRST), s3.url("overloaded"), 1)


@pytest.mark.parametrize(
    ("status", "said"),
    [(400, "credentials that may"), (401, "credentials that may"), (403, "credentials that may"), (301, "region")],
)
def test_a_server_that_refuses_without_a_word_is_not_asked_again(s3, monkeypatch, status, said):
    monkeypatch.setattr(objects, "BACKOFF_SECONDS", (60.0,))
    with s3.failing(status, 1), pytest.raises(StorageError, match=said):
        try:
            storage.publish(folder(FIRST), s3.url("refused"), 1)
        except StorageAwayError:
            pytest.fail("it may not be better the next time")


def test_a_server_that_stays_away_is_told_in_one_line(s3, impatient, monkeypatch):
    monkeypatch.setattr(objects, "BACKOFF_SECONDS", ())
    url = s3.url("away-for-good")
    s3.stop()
    try:
        for ask in (lambda: storage.publish(folder(FIRST), url, 1), lambda: storage.check(url)):
            with pytest.raises(StorageAwayError) as told:
                ask()
            line = str(told.value)
            assert line.startswith(f"s3://{s3.bucket}/away-for-good cannot be used: ")
            assert line.endswith("; check that it can be reached from here, and try again")
            assert "\n" not in line and SECRET not in line and KEY not in line
    finally:
        s3.start()


def test_a_storage_is_checked_before_it_is_used(place):
    storage.check(place.url)
    assert place.objects() == {}


@pytest.mark.parametrize("methods", ["GET", "HEAD", "POST", "PUT", "DELETE"])
def test_the_check_waits_for_a_storage_that_comes_back(s3, monkeypatch, methods):
    monkeypatch.setattr(objects, "BACKOFF_SECONDS", (0.01, 0.01))
    with s3.failing(501, 2, methods):
        storage.check(s3.url(f"checked-{methods}"))


def test_a_bucket_whose_region_cannot_be_asked_for_yet_is_waited_for(s3, monkeypatch):
    """As it is in every new process, unless the URL names it."""
    import pyarrow.fs

    real, failures = pyarrow.fs.FileSystem, [2]

    class Unresolved:
        @staticmethod
        def from_uri(url: str) -> Any:
            if failures[0]:
                failures[0] -= 1
                raise OSError(f"When resolving region for bucket '{s3.bucket}': AWS Error NETWORK_CONNECTION")
            return real.from_uri(url)

    monkeypatch.setattr(pyarrow.fs, "FileSystem", Unresolved)
    monkeypatch.setattr(objects, "BACKOFF_SECONDS", (0.01,))
    with pytest.raises(StorageAwayError, match=r"resolving region.*check that it can be reached from here"):
        storage.check(s3.url("somewhere"))
    failures[0] = 1
    storage.check(s3.url("somewhere"))


def test_what_can_never_work_is_told_at_once(s3, tmp_path, monkeypatch):
    monkeypatch.setattr(objects, "BACKOFF_SECONDS", (60.0,))
    (tmp_path / "file").touch()
    for url, said in (
        (s3.url("x", bucket="nobody-made-it"), "make the bucket, or correct the URL"),
        (f"file://{tmp_path}/file/x", "name a folder that may be written to"),
        (f"s4://{KEY}:{SECRET}@bucket/x", "name a URL such as s3://bucket/folder or file:///folder"),
        (f"s3://{KEY}:{SECRET}@bucket/x?nonsense=1", "name a URL such as s3://bucket/folder or file:///folder"),
    ):
        for ask in (lambda url: storage.check(url), lambda url: storage.publish(folder(FIRST), url, 1)):
            with pytest.raises(StorageError, match=said) as told:
                ask(url)
            line = str(told.value)
            assert line.startswith(objects.shown(url))
            assert "\n" not in line and SECRET not in line


def test_credentials_that_are_refused_are_told_at_once(s3, monkeypatch):
    monkeypatch.setattr(objects, "BACKOFF_SECONDS", (60.0,))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    s3.client.put_bucket_policy(Bucket=s3.bucket, Policy=DENY.replace("BUCKET", s3.bucket))
    try:
        with pytest.raises(StorageError, match="give this process credentials that may"):
            storage.check(s3.url("denied"))
    finally:
        s3.client.delete_bucket_policy(Bucket=s3.bucket)


DENY = """
{"Version": "2012-10-17",
 "Statement": [{"Effect": "Deny", "Principal": "*", "Action": "s3:*Object",
                "Resource": "arn:aws:s3:::BUCKET/denied/*"}]}
"""


def test_a_full_disk_is_told_and_leaves_what_was_there(small_disk, s3, monkeypatch):
    monkeypatch.setattr(objects, "BACKOFF_SECONDS", (3600.0,))  # it is not asked again
    url = objects.resolved(str(small_disk / "stages"))
    storage.publish(folder(FIRST), url, 1)
    with pytest.raises(StorageError, match=r"No space left on device.*; free some room there"):
        storage.publish(folder({"checkpoint.pt": b"x" * 200_000}), url, 2)
    assert fetched(url) == (1, FIRST)
    storage.publish(folder({"checkpoint.pt": b"x" * 200_000}), s3.url("large"), 1)
    with pytest.raises(StorageError, match=r"disk/here cannot be written: .*name another folder: LNCIS_SCRATCH"):
        storage.fetch(s3.url("large"), small_disk / "here")


def test_urls_are_joined_before_their_query_and_shown_without_secrets():
    url = "s3://key:sec@ret/@bucket/a?endpoint_override=http%3A%2F%2Fhost&region=x"
    assert objects.below(url, "stages", "0 1") == (
        "s3://key:sec@ret/@bucket/a/stages/0%201?endpoint_override=http%3A%2F%2Fhost&region=x"
    )
    assert objects.shown(url) == "s3://bucket/a"
    assert objects.shown("file:///a/b") == "file:///a/b"
    assert objects.resolved("runs/x") == f"file://{Path.cwd()}/runs/x"
    assert objects.resolved(url) == url


def test_mlflow_keeps_artifacts_in_the_bucket(s3, monkeypatch):
    """As on a cluster, where its server is told MLFLOW_ARTIFACTS=s3://...; here without one."""
    import mlflow

    from lncis.tracking import StudyRuns

    monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", s3.endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{Path.cwd()}/mlflow.db")
    client = mlflow.MlflowClient(f"sqlite:///{Path.cwd()}/mlflow.db")
    client.create_experiment("kept", artifact_location=f"s3://{s3.bucket}/mlflow")
    runs = StudyRuns("kept", "study-1", {})
    runs.end_study("FINISHED", artifacts=[folder(FIRST) / "noise.json"])
    (name,) = (name for name in s3.objects("mlflow") if name.endswith("/artifacts/noise.json"))
    assert name.startswith(runs.run_id)
    back = mlflow.artifacts.download_artifacts(
        artifact_uri=f"runs:/{runs.run_id}/noise.json", dst_path="back", tracking_uri=os.environ["MLFLOW_TRACKING_URI"]
    )
    assert Path(back).read_bytes() == FIRST["noise.json"]
