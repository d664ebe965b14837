"""The command lines, as a person meets them."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from click.testing import Result
from typer.testing import CliRunner

from lncis import datasets, documents
from lncis.commands import app as cli
from lncis.config import TrainConfig
from lncis.detection import checkpoint, engine
from lncis.studies.plan import plan
from lncis.studies.record.journal import EpochFinished, Journal, TrialStarted
from lncis.studies.spec.files import load_spec

ROOT = Path(__file__).parents[1]
SWEEP = ROOT / "studies" / "gamma_sweep.yaml"


def command(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *map(str, arguments)], capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ("{loss.gamma: -1}", "base.loss.gamma: must be a number greater than 0, or auto but got -1"),
        ("{loss.A: 2}", "base.loss.A: must be less than 0 but got 2"),
        ("{schedule.stage1_epochs: 999}", "base.schedule: stage1_epochs must be below epochs (EPOCHS) but got 999"),
        ("{schedule.epoch: 12}", "base.schedule.epoch: no such field; did you mean epochs?"),
    ],
)
@pytest.mark.processes
def test_a_mistake_is_one_line_with_file_field_value_and_remedy(change: str, complaint: str) -> None:
    import yaml

    study = yaml.safe_load(SWEEP.read_text())
    study["base"] = documents.with_overrides(study["base"], yaml.safe_load(change))
    Path("mistake.yaml").write_text(yaml.safe_dump(study))
    ran = command("-m", "lncis", "study", "run", "mistake.yaml", "--dry-run")
    assert ran.returncode == 2
    complaint = complaint.replace("EPOCHS", str(study["base"]["schedule"].get("epochs")))
    assert ran.stderr == f"error: mistake.yaml: {complaint}\n"
    assert list(Path().iterdir()) == [Path("mistake.yaml")], "nothing was begun"


@pytest.mark.processes
def test_an_unknown_metric_is_refused_with_those_that_are_known() -> None:
    Path("mistake.yaml").write_text(SWEEP.read_text().replace("val/segm_AP,", "val/mAP,"))
    ran = command("-m", "lncis", "study", "run", "mistake.yaml", "--dry-run")
    assert ran.returncode == 2
    assert "objective: metric must be one of val/segm_AP," in ran.stderr
    assert "Traceback" not in ran.stderr


def test_workers_that_cannot_be_are_refused_before_anything_starts() -> None:
    Path("config.yaml").write_text("{}")
    ran = CliRunner().invoke(
        cli.app, ["train", "config.yaml", "--out", "out", "--num-workers", "2", "--gpus-per-worker", "0.5"]
    )
    assert (ran.exit_code, ran.stderr.count("\n")) == (2, 1)
    assert ran.stderr.startswith("error: options: gpus_per_worker must be a whole number where num_workers is above 1")
    assert not Path("out").exists()


@pytest.mark.processes
def test_a_data_folder_that_cannot_be_written_is_said_before_ray_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("file").touch()
    monkeypatch.setenv("LNCIS_CACHE", str(Path("file/cache").absolute()))
    ran = command("-m", "lncis", "study", "run", SWEEP)
    assert (ran.returncode, ran.stderr.count("\n")) == (2, 1)
    assert "cannot write the digits cache" in ran.stderr
    assert "LNCIS_CACHE" in ran.stderr


@pytest.fixture
def paced() -> None:
    """An earlier study like the sweep, so that a plan need not time any steps."""
    folder = Path("runs/earlier")
    folder.mkdir(parents=True)
    (folder / "spec.yaml").write_text(SWEEP.read_text())
    journal = Journal(folder)
    started = TrialStarted(
        configuration=0, overrides={}, seed=0, noise_seed=None, baseline=None, stages={"s": 24}, reused=[]
    )
    journal.append(started)
    journal.append(EpochFinished(trial=started.trial, record={"epoch": 1.0, "seconds": 6.0}, reused=False))
    journal.close()


@pytest.mark.parametrize("entry", [["lncis.studies.gamma_sweep"], ["lncis", "study", "run"]])
@pytest.mark.processes
def test_every_door_leads_to_the_same_plan(paced: None, entry: list[str]) -> None:
    ran = command("-m", *entry, SWEEP, "--dry-run")
    assert ran.returncode == 0, ran.stderr
    assert costs() in ran.stdout
    assert "(6 s an epoch, as in earlier)" in ran.stdout
    assert [path.name for path in Path("runs").iterdir()] == ["earlier"], "nothing was begun"


def costs() -> str:
    planned = plan(load_spec(SWEEP))
    cost, trials = planned.sharing, len(planned.trials)
    return f"{trials} trials, 2 at a time; {cost.trained} epochs to train for {cost.requested} requested"


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli.app, ["study", *map(str, arguments)])


def test_without_sharing_the_plan_trains_all(paced: None) -> None:
    asked = plan(load_spec(SWEEP)).sharing.requested
    assert f"{asked} epochs to train for {asked} requested" in run("run", SWEEP, "--dry-run", "--no-sharing").output


def test_a_resumed_study_is_planned_from_its_own_spec(paced: None) -> None:
    output = run("run", "--resume", "earlier", "--dry-run").output
    assert costs() in output


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["run"], "lncis study run: needs a study: a YAML file, or --resume STUDY_ID"),
        (["run", "--resume", "x"], "runs: has no study 'x'; the latest are earlier"),
        (["report", "x"], "runs: has no study 'x'; the latest are earlier"),
        (["run", SWEEP, "--resume", "earlier"], f"{SWEEP}: must not be given with --resume earlier"),
        (["run", "nowhere.yaml"], "nowhere.yaml: no such file; check the path"),
        (["run", "--resume", "earlier", "--dry-run", "--runs", "elsewhere"], "elsewhere: has no study 'earlier'"),
    ],
)
def test_what_cannot_be_run_is_answered_with_what_can(paced: None, arguments: list[str], complaint: str) -> None:
    ran = run(*arguments)
    assert ran.exit_code == 2
    assert ran.stderr.startswith(f"error: {complaint}")
    assert ran.stderr.count("\n") == 1


def test_help_names_the_options_of_a_run() -> None:
    output = run("run", "--help").output
    for option in ("--resume", "--retry-failed", "--no-sharing", "--no-check", "--store-gb", "--dry-run", "--runs"):
        assert option in output


@pytest.mark.processes
def test_reading_a_study_loads_neither_torch_nor_ray_nor_mlflow() -> None:
    """A mistake in a file is answered in under a second."""
    code = (
        "import sys; from pathlib import Path; from lncis.commands import study; from lncis.studies import plan\n"
        f"plan.plan(study.spec_files.load_spec(Path({str(SWEEP)!r})))\n"
        "print([name for name in ('torch', 'ray', 'mlflow', 'sklearn') if name in sys.modules])"
    )
    assert command("-c", code).stdout == "[]\n"


def test_lncis_train_runs_a_configuration_to_its_checkpoint(local_ray: None, tiny: TrainConfig) -> None:
    Path("best.yaml").write_text(documents.to_yaml(tiny))
    ran = CliRunner().invoke(cli.app, ["train", "best.yaml", "--out", "trained"])
    assert ran.exit_code == 0, ran.output
    assert "epoch 4/4" in ran.output
    assert Path("trained/checkpoint.pt").exists()


@pytest.mark.processes
def test_lncis_train_without_workers_gives_the_same_and_loads_no_ray(tiny: TrainConfig) -> None:
    Path("config.yaml").write_text(documents.to_yaml(tiny))
    engine.train(tiny, datasets.load(tiny), Path("plain"))
    code = (
        "import sys; from lncis.commands import app as cli; from typer.testing import CliRunner;"
        "done = CliRunner().invoke(cli.app, ['train', 'config.yaml', '--out', 'out', '--num-workers', '0']);"
        "print(done.output); assert done.exit_code == 0; assert 'ray' not in sys.modules"
    )
    done = command("-c", code)
    assert "epoch 4/4" in done.stdout, done.stderr
    one, other = (checkpoint.load(Path(folder) / engine.CHECKPOINT).model for folder in ("plain", "out"))
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_help_names_the_commands() -> None:
    output = CliRunner().invoke(cli.app, ["--help"]).output
    assert "train" in output
    assert "study" in output
