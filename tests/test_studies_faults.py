"""What a study survives, and what it shares with others: real workers, a really full disk, memory really exhausted."""

import subprocess
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
import torch
from conftest import disk
from small_study import STUDY, figures, spec, without_time

from lncis import datasets
from lncis.config import Workers
from lncis.detection import checkpoint, engine, probing
from lncis.detection.engine import CHECKPOINT
from lncis.errors import ConfigError
from lncis.execution import worker_groups
from lncis.execution.tasks import Task
from lncis.metrics import Record
from lncis.studies import folders
from lncis.studies.estimate import checkpoint_bytes
from lncis.studies.record import journal
from lncis.studies.record.journal import End, SessionStarted
from lncis.studies.report.result import StudyResult
from lncis.studies.run import run_study
from lncis.testing import SimulatedWorkerGroup

pytestmark = pytest.mark.usefixtures("local_ray")


def weights(result: StudyResult, label: str) -> dict[str, torch.Tensor]:
    (trial,) = (t for t in result.trials if t.trial.label == label)
    return checkpoint.load(trial.directory / CHECKPOINT).model


def test_stages_are_shared_across_studies_and_equal_those_of_trials_trained_alone(small: StudyResult):
    runs = small.directory.parent
    wider = spec(search={"loss.gamma": {"type": "categorical", "choices": [2.4, 6.0, 50.0]}})
    second = run_study(wider, runs=runs, study_id="second")
    assert (small.cost.trained, small.cost.shared, small.cost.reused) == (6, 2, 0)
    # two trials are there whole, of the third its first stage
    assert (second.cost.requested, second.cost.trained, second.cost.reused, second.cost.shared) == (12, 2, 6, 4)
    for t in small.trials:
        label, config = t.trial.label, t.trial.config
        alone = engine.train(config, datasets.load(config), Path(label))
        assert figures(second)[label] == figures(small)[label] == [without_time(record) for record in alone]
        one, two, three = (
            weights(small, label),
            weights(second, label),
            checkpoint.load(Path(label) / CHECKPOINT).model,
        )
        assert all(torch.equal(one[key], two[key]) and torch.equal(one[key], three[key]) for key in one)

    again = run_study(spec(), runs=runs, study_id="small")
    assert figures(again) == figures(small)
    assert sum(isinstance(event, SessionStarted) for event in journal.read(again.directory)) == 1, "it is only read"
    with pytest.raises(ConfigError, match=r"small: base.batch_size: was 4, now 2"):
        run_study(spec(base=STUDY["base"] | {"batch_size": 2}), runs=runs, study_id="small")


@pytest.mark.slow
def test_trials_that_meet_a_full_disk_fail_with_the_reason_and_can_be_run_again():
    runs = Path("runs")
    size = checkpoint_bytes(spec().base, num_foreground_classes=10) / 1e3
    with disk(runs, kilobytes=int(3.6 * size)):
        # room for stage 1, for the first trial, and for one more checkpoint, but not for the one that replaces it
        three = {"loss.gamma": {"type": "categorical", "choices": [2.4, 3.0, 6.0]}}
        first = run_study(spec(search=three), study_id="full", store_bytes=0)
        ends = [t.end for t in first.trials]
        assert ends == [End.FINISHED, End.FAILED, End.FAILED]
        failed = [t for t in first.trials if t.end is End.FAILED]
        assert all("No space left on device" in t.reason for t in failed)
        subprocess.run(["mount", "-o", "remount,size=500m", runs], check=True)
        mended = run_study(folders.read_spec(runs, "full"), study_id="full", retry_failed=True, store_bytes=0)
        assert [t.end for t in mended.trials] == [End.FINISHED] * 3
    undisturbed = run_study(mended.spec, runs=Path("roomy"))
    assert figures(mended) == figures(undisturbed)


def start_probing(host: Any, name: str, queue: Any, workers: Workers) -> Any:
    """Start a worker group of this process, which probes as a real one does; to Ray its run is over already."""

    def ask(method: str, *arguments: Any) -> Any:
        return ray.get(getattr(queue, method).remote(*arguments))

    def probe(task: Task, epoch: int) -> Record:
        return probing.probe(task.config, datasets.load(task.config))

    made = threading.Thread(target=SimulatedWorkerGroup(name, ask, probe).run, name=name, daemon=True)
    made.start()
    return SimpleNamespace(name=name, run=ray.put(""), is_alive=made.is_alive, lost=lambda: "")


def test_a_parameter_that_changes_nothing_ends_the_study_before_its_trials(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(worker_groups, "start_worker_group", start_probing)
    idle = {"loss.gamma": {"type": "categorical", "choices": [2.4, 6.0]}}
    without_isolation = STUDY["base"] | {"loss": {"type": "lncis", "isolation": False}}
    with pytest.raises(ConfigError, match=r"search.loss.gamma: has no effect here: 2.4, 6.0 gave"):
        run_study(spec(base=without_isolation, search=idle, sensitivity_check=True))


def test_asha_ends_whole_configurations_after_stage_1():
    document = {
        "search": {"optimizer.lr": {"type": "categorical", "choices": [1e-3, 1e-9, 1e-8, 1e-7]}},
        "base": STUDY["base"] | {"schedule": {"epochs": 8, "stage1_epochs": 1}, "optimizer": {"type": "adamw"}},
        "objective": {"metric": "val/segm_AP_agnostic"},
        "pruner": {"type": "asha", "first_rung": 1, "reduction_factor": 2},
        "seeds": [0, 1],
        "resources": {"max_concurrent_trials": 2},
    }
    result = run_study(spec(**document))
    by_configuration = [{(t.end, len(t.records)) for t in c.trials} for c in result.configurations]
    assert all(len({end for end, _ in ends}) == 1 for ends in by_configuration), "both seeds, or none"
    pruned = [ends for ends in by_configuration if (End.FINISHED, 8) not in ends]
    assert pruned and len(pruned) < len(by_configuration)
    assert all(end is End.PRUNED and 2 <= epochs < 8 for ends in pruned for end, epochs in ends), "after stage 1"
    assert result.cost.skipped == result.cost.requested - sum(len(t.records) for t in result.trials)
