"""Fill a service's database with studies that never ran: for the load script, and for looking at the page.

    python benchmarks/service_fill.py sqlite:///lncis.db --studies 10000 --trials 100000 --largest 10000

Most studies are over; a few run, wait or are paused. The largest has `--largest` trials of its own, with curves.
"""

import argparse
import json
import math
import random
import time
from dataclasses import replace
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from lncis import documents
from lncis.api import ENDED, State
from lncis.documents import plain
from lncis.studies.spec import StudySpec
from lncis.studies.spec.files import load_spec
from lncis.studies.spec.samplers import OptunaSampler
from lncis.studies.spec.space import Range
from service.store import studies as store
from service.store import tables
from service.store.database import Database

PRESET = Path(__file__).parents[1] / "studies" / "gamma_sweep.yaml"
EPOCHS, EVALUATE_EVERY = 26, 4
STATES = (
    [State.SUCCEEDED] * 90 + [State.FAILED] * 4 + [State.CANCELLED] * 3 + [State.QUEUED, State.PAUSED, State.RUNNING]
)


def fill(database: Database, studies: int, trials: int, largest: int = 0, *, seed: int = 0) -> None:
    draw = random.Random(seed)
    sampler, gammas = OptunaSampler(type="random", configurations=5), Range(type="float", low=3.0, high=9.0)
    spec = replace(load_spec(PRESET), sampler=sampler, search={"loss.gamma": gammas})
    sizes = [trials // studies + (number < trials % studies) for number in range(studies)] + [largest] * (largest > 0)
    for begin in range(0, len(sizes), 200):
        part = sizes[begin : begin + 200]
        database.write(lambda connection, part=part: [_study(connection, spec, size, draw) for size in part])


def _study(connection: Connection, spec: StudySpec, size: int, draw: random.Random) -> None:
    state = State.RUNNING if size > 1000 else draw.choice(STATES)
    owner = draw.choice(["anna", "bilal", "chen", "dora"])
    document = plain(documents.dump(spec))
    study, _ = store.create_study(
        connection,
        store.NewStudy(
            name=spec.name,
            owner=owner,
            spec=document,
            priority=draw.choice([0, 0, 0, 5]),
            max_concurrent_trials=2,
            trials_total=size,
            epochs_total=size * EPOCHS,
            key=None,
            request=None,
        ),
    )
    if state is State.QUEUED or not size:
        return
    now, curves, rows = time.time(), [], []
    seeds, done = spec.seeds, state in ENDED
    for number in range(1, size + 1):
        configuration, seed = divmod(number - 1, len(seeds))
        gamma, peak = 3.0 + configuration * 6.0 / max(1, size / len(seeds)), 14 + draw.random() * 4
        end = draw.choices(["finished", "failed"], [97, 3])[0] if done or number < size - 2 else "running"
        reached = EPOCHS if end == "finished" else draw.randrange(2, EPOCHS - 1)
        metrics: dict[str, float] = {}
        for epoch in range(1, reached + 1):
            metrics |= {
                "epoch": epoch,
                "seconds": 1.4,
                "lr": 7e-4,
                "train/loss": 3.0 * math.exp(-epoch / 9) + draw.random() / 9,
            }
            if epoch % EVALUATE_EVERY == 0 or epoch == EPOCHS:
                ap = peak * (1 - math.exp(-epoch / 8)) + draw.random()
                metrics |= {"val/segm_AP": ap, "val/segm_AP50": ap * 1.7, "val/bbox_AP": ap * 1.1}
            if number <= 300:
                data = {"trial": f"{configuration:04d}-seed{seeds[seed]}", "epoch": epoch, "metrics": dict(metrics)}
                curves.append((number, now - 3600 + number + epoch, "epoch_finished", data))
        if end == "finished":
            metrics |= {"test/segm_AP": 2.2 * metrics["val/segm_AP"], "test/segm_AP50": 3.6 * metrics["val/segm_AP"]}
        rows.append(
            {
                "study": study.number,
                "number": number,
                "name": f"{configuration:04d}-seed{seeds[seed]}",
                "configuration": configuration,
                "label": f"gamma = {gamma:.4g}",
                "overrides": {"loss.gamma": gamma},
                "baseline": None,
                "seed": seeds[seed],
                "noise_seed": None,
                "state": end,
                "reason": "the training loss became nan in epoch 7" if end == "failed" else "",
                "started_at": now - 3600 + number,
                "ended_at": None if end == "running" else now - 3500 + number,
                "stages": [f"{seeds[seed]:016x}", f"{number:08x}fedcba98"],
                "epochs": EPOCHS,
                "epoch": reached,
                "metrics": metrics,
                "objective": metrics.get("val/segm_AP"),
            }
        )
    connection.execute(tables.trials.insert(), rows)
    stages = [("", 1, EPOCHS // 2, s, f"{seed:016x}") for s, seed in enumerate(seeds, 1)]
    stage_rows = [
        {
            "study": study.number,
            "number": s,
            "key": key,
            "after": None,
            "first_epoch": 1,
            "last_epoch": EPOCHS // 2,
            "reused": False,
            "epoch": EPOCHS // 2,
        }
        for _, _, _, s, key in stages
    ]
    stage_rows += [
        {
            "study": study.number,
            "number": len(seeds) + row["number"],
            "key": row["stages"][1],
            "after": row["stages"][0],
            "first_epoch": EPOCHS // 2 + 1,
            "last_epoch": EPOCHS,
            "reused": False,
            "epoch": row["epoch"],
        }
        for row in rows
    ]
    connection.execute(tables.stages.insert(), stage_rows)
    uses = [
        {"study": study.number, "stage": stage, "trial": row["number"]}
        for row in rows
        for stage in (seeds.index(row["seed"]) + 1, len(seeds) + row["number"])
    ]
    connection.execute(tables.stage_uses.insert(), uses)
    events = [
        {"study": study.number, "number": n, "trial": trial, "at": at, "type": kind, "data": data}
        for n, (trial, at, kind, data) in enumerate(sorted(curves, key=lambda c: c[1]), study.events + 1)
    ]
    if events:
        connection.execute(tables.events.insert(), events)
    ended = [row["state"] for row in rows]
    best = max((row for row in rows if row["state"] == "finished"), key=lambda row: row["objective"], default=None)
    study = store.update_study(
        connection,
        study,
        events=study.events + len(events),
        trials_started=size,
        trials_finished=ended.count("finished"),
        trials_failed=ended.count("failed"),
        epochs_done=sum(row["epoch"] for row in rows),
        cost={
            "requested": size * EPOCHS,
            "trained": size * EPOCHS // 2,
            "shared": size * EPOCHS // 2,
            "seconds": 60.0 * size,
        },
        best=best
        and {
            "metric": "val/segm_AP",
            "label": best["label"],
            "overrides": best["overrides"],
            "objective": {"mean": best["objective"], "ci95": None, "seeds": 1},
            "status": "finished",
        },
    )
    study = store.update_study(connection, study, state=State.RUNNING, reason="")
    if state is not State.RUNNING:
        reason = {State.FAILED: "its job died 3 times in a row without progress: Killed"}.get(state, "")
        store.update_study(connection, study, state=state, reason=reason)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("url")
    parser.add_argument("--studies", type=int, default=10_000)
    parser.add_argument("--trials", type=int, default=100_000, help="of all but the largest")
    parser.add_argument("--largest", type=int, default=0)
    asked = parser.parse_args()
    database = Database(asked.url)
    fill(database, asked.studies, asked.trials, asked.largest)
    with database.engine.connect() as connection:
        tally = {
            name: connection.execute(sa.select(sa.func.count()).select_from(table)).scalar_one()
            for name, table in tables.metadata.tables.items()
        }
    print(json.dumps(tally))
    database.close()


if __name__ == "__main__":
    main()
