"""What a large study costs once it has run: to resume it, to report on it, to follow it in the service, to show it.

    python benchmarks/large_study.py --trials 10000

The journal is written by the scheduler itself, whose workers are simulated; nothing is trained, and no Ray is started.
The last trial has not ended, so that the study is one to resume.
"""

import argparse
import contextlib
import resource
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from fastapi.testclient import TestClient
from sqlalchemy import Connection

from lncis import documents
from lncis.config import Schedule, TrainConfig
from lncis.documents import plain
from lncis.execution.tasks import Task
from lncis.metrics import Record
from lncis.studies import folders
from lncis.studies.record import journal
from lncis.studies.record.journal import Journal, SessionStarted
from lncis.studies.report import files, html, plots, table
from lncis.studies.report.result import StudyResult, from_journal, result_document
from lncis.studies.run import versions
from lncis.studies.search import Suggester
from lncis.studies.spec import StudySpec
from lncis.studies.spec.samplers import AshaPruner, NoPruner, OptunaSampler
from lncis.studies.spec.space import Range
from lncis.studies.stages.tree import STAGES, StageTree, code_digest
from lncis.studies.study_run import StudyRun
from lncis.studies.trials import TrialScheduler
from service.app import create_app
from service.dispatch.jobs import RayJobs
from service.dispatch.progress import Follower
from service.settings import Settings
from service.store import studies as store
from service.store.database import Database

EPOCHS = 6
LOOKS = 20
"""At each page, of which the median counts; the least is what a machine without other work would take."""


class Nowhere:
    """A queue whose tasks nobody takes."""

    def submit(self, owner: str, chain: Sequence[Task]) -> None: ...

    def withdraw(self, owner: str, reason: str) -> None: ...


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--sampler", choices=["random", "tpe"], default="random")
    parser.add_argument("--pruner", choices=["none", "asha"], default="none")
    parser.add_argument("--folder", type=Path, help="keep the study there; what it holds already is not made again")
    asked = parser.parse_args()
    with contextlib.ExitStack() as stack:
        runs = asked.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        runs.mkdir(parents=True, exist_ok=True)
        spec = spec_of(asked.trials, asked.sampler, asked.pruner)
        folder = folders.claim_folder(runs, f"large-{asked.trials}-{asked.sampler}-{asked.pruner}", spec)
        if not (folder / journal.JOURNAL).exists():
            with timed("written by a scheduler that drives it (once)"):
                write_journal(spec, folder)
        with timed("resume: the journal is read and replayed"):
            run = run_in(spec, folder)
            scheduler = TrialScheduler(run, Suggester(spec), Nowhere())
            scheduler.resume()
        assert scheduler.unfinished == 1
        with timed("report: all its files"):
            result = from_journal(folder.name, spec, folder, run.journal.events)
            files.write_report(result)
        parts(result)
        serve(spec, runs, folder)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"{asked.trials} trials, {len(run.journal.events)} events: at most {peak:.0f} MiB")


def spec_of(trials: int, sampler: str, pruner: str) -> StudySpec:
    """Return a study of so many trials, in the least time that a schedule with two stages allows."""
    return StudySpec(
        name="large",
        base=TrainConfig(schedule=Schedule(epochs=EPOCHS, stage1_epochs=3)),
        search={"loss.gamma": Range(type="float", low=2, high=9), "loss.A": Range(type="float", low=-9, high=-1)},
        sampler=OptunaSampler(type=sampler, configurations=trials),
        pruner=AshaPruner(first_rung=1) if pruner == "asha" else NoPruner(),
        sensitivity_check=False,
    )


def run_in(spec: StudySpec, folder: Path) -> StudyRun:
    tree = StageTree(spec, folder / STAGES)
    return StudyRun(spec=spec, folder=folder, tree=tree, journal=Journal(folder), observers=[], published=None)


def write_journal(spec: StudySpec, folder: Path) -> None:
    run = run_in(spec, folder)
    scheduler = TrialScheduler(run, Suggester(spec), Nowhere())
    scheduler.resume()
    begun = SessionStarted(worker_groups=1, versions=versions(), code=code_digest(), storage="")
    run.journal.append(begun)
    trial = scheduler.start_next()
    while trial and scheduler.unfinished > 1:
        for epoch in range(1, EPOCHS + 1):
            scheduler.epoch_finished(trial.name, record_of(trial.overrides, epoch))
        scheduler.trial_ended(trial.name, "")
        trial = scheduler.start_next()
    run.journal.close()


def record_of(overrides: dict[str, float], epoch: int) -> Record:
    """Return what an epoch of a trial reports: better near gamma 6 and A -4."""
    miss = ((overrides["loss.gamma"] - 6) / 7) ** 2 + ((overrides["loss.A"] + 4) / 8) ** 2
    ap = (20 - 10 * miss) * (1 - 0.7**epoch)
    record = {"epoch": float(epoch), "seconds": 1.0, "lr": 1e-3, "train/loss": 3 * 0.8**epoch}
    record |= {"val/segm_AP": ap, "val/segm_AP50": 1.7 * ap}
    return record | ({"test/segm_AP": ap + 1, "test/segm_AP50": 1.7 * ap + 1} if epoch == EPOCHS else {})


def parts(result: StudyResult) -> None:
    """Say what the parts of a report take, each after what they all rest on."""
    for name, make in {
        "results.json": lambda: result_document(result),
        "table.csv": lambda: table.trials_csv(result),
        "table.txt": lambda: files._text(result),
        "plot.png": lambda: plots.overview(result),
        "report.html": lambda: html.report_html(result),
    }.items():
        with timed(f"  once more {name}"):
            make()


def serve(spec: StudySpec, runs: Path, folder: Path) -> None:
    settings = Settings(runs=runs, database_url=f"sqlite:///{folder}/service.db", presets=Path("studies"))
    Path(f"{folder}/service.db").unlink(missing_ok=True)
    database = Database(settings.database_url)
    study = database.write(lambda connection: new_study(connection, spec))
    (runs / study).symlink_to(folder)
    with timed("service: the journal is copied from its beginning"), longest_write(database):
        Follower(study, spec, settings).catch_up(database, final=True)
    with TestClient(create_app(settings, database, RayJobs(settings)), base_url="http://127.0.0.1:8000") as client:
        for name, path in {
            "page": f"/ui/studies/{study}",
            "page by objective": f"/ui/studies/{study}?sort=objective&order=desc&page=50",
            "GET /studies/ID": f"/studies/{study}",
            "GET /studies/ID/trials": f"/studies/{study}/trials",
            "GET /studies/ID/best": f"/studies/{study}/best",
        }.items():
            seconds, busy = [], []
            for _ in range(LOOKS):
                begun, cpu = time.perf_counter(), time.process_time()
                answer = client.get(path)
                seconds.append(time.perf_counter() - begun)
                busy.append(time.process_time() - cpu)
                assert answer.status_code == 200, (path, answer.status_code, answer.text[:300])
            wall, least, middle = (1000 * s for s in (median(seconds), min(busy), median(busy)))
            size = len(answer.content) / 1000
            print(f"{name}: {wall:.0f} ms; of CPU {middle:.0f}, at least {least:.0f}; {size:.0f} kB", flush=True)
    database.close()


def new_study(connection: Connection, spec: StudySpec) -> str:
    document = plain(documents.dump(spec))
    total = spec.total_trials
    study, _ = store.create_study(
        connection,
        store.NewStudy(
            name=spec.name,
            owner="anna",
            spec=document,
            priority=0,
            max_concurrent_trials=2,
            trials_total=total,
            epochs_total=total * EPOCHS,
            key=None,
            request=None,
        ),
    )
    return study.id


@contextlib.contextmanager
def longest_write(database: Database) -> Iterator[None]:
    """Within the block writes are timed; then say how many there were, and how long others waited for one at most."""
    write, seconds = database.write, list[float]()

    def timed_write(work: Callable[[Connection], Any]) -> Any:
        begun = time.process_time()
        try:
            return write(work)
        finally:
            seconds.append(time.process_time() - begun)

    database.write = timed_write  # type: ignore[method-assign]
    try:
        yield
    finally:
        database.write = write  # type: ignore[method-assign]
        print(f"  in {len(seconds)} transactions, the longest one {max(seconds):.2f} s of CPU", flush=True)


@contextlib.contextmanager
def timed(what: str) -> Iterator[None]:
    begun, cpu = time.perf_counter(), time.process_time()
    yield
    seconds, cpu = time.perf_counter() - begun, time.process_time() - cpu
    print(f"{what}: {seconds:.2f} s ({cpu:.2f} s of CPU)", flush=True)


if __name__ == "__main__":
    main()
