"""Studies whose stages lie in a bucket: real workers against a real S3-compatible server."""

import os
import signal
from pathlib import Path

import psutil
import pytest
import torch
from object_store import SECRET, ObjectStore, serving
from small_study import STUDY, figures, spec

from lncis.detection import checkpoint, histograms, label_losses
from lncis.detection.engine import CHECKPOINT
from lncis.errors import StorageError
from lncis.execution import objects, storage
from lncis.metrics import Record
from lncis.noise import NOISE_MANIFEST
from lncis.studies import run, trained
from lncis.studies.record import journal
from lncis.studies.record.history import History
from lncis.studies.report.result import StudyResult
from lncis.studies.run import run_study
from lncis.studies.spec import Trial
from lncis.studies.study_run import Observer


def same_weights(one: Path, other: Path) -> bool:
    first, second = (checkpoint.load(folder / CHECKPOINT).model for folder in (one, other))
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


@pytest.fixture(scope="module")
def s3():
    with serving() as store:
        yield store


class Watch(Observer):
    """Notes what is said, and kills the workers once, in the epoch after the third."""

    def __init__(self, *, kills: bool) -> None:
        self.kills, self.notes = kills, list[str]()

    def on_epoch(self, trial: Trial, record: Record) -> None:
        if self.kills and record["epoch"] == 3:
            self.kills = False
            for process in psutil.Process().children(recursive=True):
                if "RayTrainWorker" in " ".join(process.cmdline()):
                    os.kill(process.pid, signal.SIGKILL)

    def on_note(self, text: str) -> None:
        self.notes.append(text)


def test_a_study_in_a_bucket_equals_one_on_a_disk_and_the_next_study_finds_its_stages(
    small: StudyResult, s3: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    url = s3.url("lncis")
    bucket = run_study(spec(), study_id="bucket", storage=url, observers=[Watch(kills=True)])
    assert figures(bucket) == figures(small)
    assert (bucket.cost.trained, bucket.cost.shared, bucket.cost.reused) == (6, 2, 0)
    for t in bucket.trials:
        assert storage.published_epoch(objects.below(url, "stages", t.directory.name)) == 4
        storage.fetch(objects.below(url, "stages", t.directory.name), Path(t.directory.name))
        (twin,) = (other for other in small.trials if other.trial.label == t.trial.label)
        assert same_weights(Path(t.directory.name), twin.directory)
    assert len({name.partition("/")[0] for name in s3.objects("lncis/stages")}) == 3

    best = bucket.best.trials[0].directory
    assert {path.name for path in best.iterdir()} == {CHECKPOINT, NOISE_MANIFEST, histograms.FILE, label_losses.FILE}
    assert trained.find(bucket.directory).state.epoch == 4
    assert "Figure 5" in (bucket.directory / "report.html").read_text()

    watch = Watch(kills=False)
    again = run_study(spec(), study_id="again", storage=url, observers=[watch])
    assert figures(again) == figures(small)
    assert (again.cost.trained, again.cost.shared, again.cost.reused) == (0, 2, 6)
    assert same_weights(again.best.trials[0].directory, best)

    for folder in (bucket.directory, again.directory):
        for path in (path for path in folder.rglob("*") if path.is_file() and path.name != CHECKPOINT):
            assert SECRET not in path.read_bytes().decode(errors="replace"), path
    (started,) = (e for e in journal.read(again.directory) if isinstance(e, journal.SessionStarted))
    assert started.storage == f"s3://{s3.bucket}/lncis/stages"
    assert run._other_storage(History.of(again.spec, [started]), "") == (
        f"the study's stages were at {started.storage}, and are now in its folder: what is not there is trained again"
    )
    run_study(spec(), study_id="again", observers=[watch])
    assert watch.notes == [], "a finished study needs no storage"


@pytest.mark.slow
def test_two_workers_each_fetch_what_they_go_on_from(local_ray: None, s3: ObjectStore) -> None:
    ddp = spec(
        search={"loss.gamma": {"type": "categorical", "choices": [6.0]}},
        resources={"num_workers": 2, "max_concurrent_trials": 1},
    )
    disk = run_study(ddp, study_id="disk")
    bucket = run_study(ddp, study_id="bucket", storage=s3.url("ddp"), observers=[Watch(kills=True)])
    assert figures(bucket) == figures(disk)
    assert same_weights(bucket.best.trials[0].directory, disk.best.trials[0].directory)


def test_trials_that_share_nothing_are_published_below_their_study(local_ray: None, s3: ObjectStore) -> None:
    alone = spec(sharing=False, base=STUDY["base"] | {"schedule": {"epochs": 1, "stage1_epochs": 0}})
    result = run_study(alone, study_id="alone", storage=s3.url("lonely"))
    assert (result.cost.trained, result.cost.reused) == (2, 0)
    stages = {t.directory.name for t in result.trials}
    assert {tuple(name.split("/")[:2]) for name in s3.objects("lonely")} == {("alone", stage) for stage in stages}


def test_a_storage_of_no_use_is_told_before_ray_starts_and_nothing_is_begun(s3: ObjectStore) -> None:
    with pytest.raises(StorageError, match=r"make the bucket, or correct the URL"):
        run_study(spec(), study_id="never", storage=s3.url("x", bucket="nobody-made-it"))
    assert not Path("runs/never").exists()
