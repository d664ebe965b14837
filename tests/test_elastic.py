"""A cluster that grows while a study runs: real nodes, each with room for one worker group."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lncis import datasets, documents
from lncis.config import TrainConfig
from lncis.detection import checkpoint, engine
from lncis.detection.engine import CHECKPOINT

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1200)]

SCRIPT = """
import json, os, sys
from pathlib import Path

os.environ |= {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}

from ray.cluster_utils import Cluster

from lncis import documents
from lncis.studies.record import journal
from lncis.studies.driver import worker_pool
from lncis.studies.run import run_study
from lncis.studies.spec import StudySpec
from lncis.studies.study_run import Observer

worker_pool.IDLE_TIMEOUT_SECONDS = 3.0
digits = {"type": "digits", "val_scenes": 4, "test_scenes": 4}
cluster = Cluster(
    initialize_head=True,
    head_node_args={"num_cpus": 0, "include_dashboard": False, "resources": {"trial_driver": 100}},
)
cluster.add_node(num_cpus=1)
os.environ["RAY_ADDRESS"] = cluster.address


class Grow(Observer):
    grown = False

    def on_epoch(self, trial, record):
        if not self.grown:
            cluster.add_node(num_cpus=1)
            self.grown = True


def run(name, scenes, schedule, gammas, at_a_time, *observers):
    spec = documents.parse(
        StudySpec,
        {
            "name": name,
            "base": {
                "dataset": digits | {"train_scenes": scenes},
                "schedule": schedule,
                "optimizer": {"type": "adamw", "lr": 1e-5},
            },
            "search": {"loss.gamma": {"type": "categorical", "choices": gammas}},
            "resources": {"max_concurrent_trials": at_a_time},
            "sensitivity_check": False,
        },
        source="test",
    )
    result = run_study(spec, study_id=name, observers=observers)
    return {
        "worker groups": [
            e.worker_groups for e in journal.read(result.directory) if isinstance(e, journal.WorkerGroupsUp)
        ],
        "held": result.cost.held_seconds,
        "trained": result.cost.training_seconds,
        "seconds": result.cost.seconds,
        "trials": [
            {"config": documents.dump(t.trial.config), "folder": str(t.directory.absolute()), "records": t.records}
            for t in result.trials
        ],
    }


grows = run("grows", 8, {"epochs": 14, "stage1_epochs": 2}, [2.4, 3.0, 4.0, 5.0, 6.0, 7.0], "auto", Grow())
# stages longer than a worker group needs to find that it is idle, or to start
forks = run("forks", 16, {"epochs": 100, "stage1_epochs": 40, "evaluate_every": 100}, [2.4, 6.0], 2)
Path("told.json").write_text(json.dumps({"grows": grows, "forks": forks}))
cluster.shutdown()
"""


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict]:
    folder = tmp_path_factory.mktemp("grown")
    print("two studies on a cluster that grows: about two minutes on two cores")
    script = subprocess.run([sys.executable, "-c", SCRIPT], cwd=folder, capture_output=True, text=True, timeout=1100)
    logs = "".join(log.read_text()[-5000:] for log in folder.glob("runs/*/logs/driver/*.log"))
    assert script.returncode == 0, script.stdout + script.stderr + logs
    return json.loads((folder / "told.json").read_text())


def test_a_node_that_comes_while_a_study_runs_is_used(told):
    worker_groups = told["grows"]["worker_groups"]
    assert worker_groups[:3] == [0, 1, 2]
    assert max(worker_groups) == 2
    assert told["grows"]["trained"] < told["grows"]["held"] < told["grows"]["seconds"] + told["grows"]["trained"]


def test_a_worker_group_leaves_while_others_train_what_it_waits_for_and_comes_back_at_the_fork(told):
    worker_groups = [n for n in told["forks"]["worker_groups"] if n]
    assert worker_groups in ([2, 1, 2, 1], [1, 2, 1, 2, 1]), "and leaves again while the other ends its fork"


@pytest.mark.parametrize(("study", "number"), [("grows", 0), ("grows", 4), ("forks", 1)])
def test_the_results_are_those_of_the_trials_alone(told, study, number):
    trial = told[study]["trials"][number]
    config = documents.parse(TrainConfig, trial["config"], source="trial")
    engine.train(config, datasets.load(config), Path("alone"))
    alone, ours = checkpoint.load(Path("alone") / CHECKPOINT), checkpoint.load(Path(trial["folder"]) / CHECKPOINT)
    assert all(torch.equal(alone.model[key], ours.model[key]) for key in alone.model)
    without_time = [{k: v for k, v in r.items() if k != "seconds"} for r in (*alone.history, *trial["records"])]
    assert without_time[: len(alone.history)] == without_time[len(alone.history) :]
