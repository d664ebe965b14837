"""benchmarks/gpu_check.py runs through on the CPU; what it asks of a GPU is asked where there is one."""

import json
import subprocess
import sys
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch.utils.data import Subset

from lncis import datasets
from lncis.config import DigitsData, Schedule, TrainConfig
from lncis.detection import engine
from lncis.detection.batches import training_loader
from lncis.detection.mask_rcnn.models import build_model

ROOT = Path(__file__).parents[1]
NEEDS_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.fixture(scope="module")
def gpu_check() -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        import gpu_check

    return gpu_check


def train(
    device: torch.device,
    steps: int,
    within: AbstractContextManager[None],
    watch: Any = lambda optimizer, model: None,
) -> None:
    """Train the digits for so many steps of stage 2, within a context that is entered when all is on the device."""
    config = TrainConfig(
        dataset=DigitsData(train_scenes=8, val_scenes=4, test_scenes=4), schedule=Schedule(epochs=1, stage1_epochs=0)
    )
    data = datasets.load(config)
    model = build_model(config.model, data.num_foreground_classes).to(device)
    optimizer = engine.build_optimizer(model, config.optimizer)
    watch(optimizer, model)
    few = Subset(data.train, [number % len(data.train) for number in range(steps * config.batch_size)])
    loader = training_loader(config, few, 0, pin_memory=device.type == "cuda")
    with within:
        engine.train_epoch(model, optimizer, loader, config, 0)


@pytest.mark.slow
def test_parts_run_at_toy_size(gpu_check: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    report = gpu_check.checked(gpu_check.TOY, [gpu_check.evaluation, gpu_check.waiting, gpu_check.forking])
    parts = json.loads(json.dumps(report))["parts"]
    assert {name: part["passed"] for name, part in parts.items()} == {
        "evaluation": None,
        "waiting": None,
        "forking": True,
    }
    assert parts["evaluation"]["detections_an_image"] == 100
    assert parts["forking"]["fork"] == parts["forking"]["alone_again"] == 0
    gpu_check.gpu_findings.show(report)
    assert "images/s with 100 detections" in capsys.readouterr().out.replace("\n", " ")


@pytest.mark.slow
def test_command_writes_what_it_found(
    gpu_check: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "found.json"
    monkeypatch.setattr(sys, "argv", ["gpu_check.py", "--toy", "--without-study", "--out", str(out)])
    with pytest.raises(SystemExit) as ended:
        gpu_check.main()
    assert not ended.value.code
    report = json.loads(out.read_text())
    assert report["machine"]["torch"] == torch.__version__
    assert list(report["parts"]["training"]["sides"]) == ["reference", "ours", "ours, bf16"]
    assert "of the reference" in capsys.readouterr().out


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_the_command_says_what_runs(gpu_check: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu_check.py"])
    with pytest.raises(SystemExit, match="--toy"):
        gpu_check.main()


def test_a_part_that_raises_has_failed_and_the_next_one_runs(
    gpu_check: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*given: Any) -> None:
        raise RuntimeError("no such kernel")

    def sound(*given: Any) -> dict[str, Any]:
        return {"passed": True, "left_out": "nothing to do"}

    parts = gpu_check.checked(replace(gpu_check.TOY), [broken, sound])["parts"]
    assert (parts["broken"]["passed"], parts["broken"]["failed"]) == (False, "RuntimeError: no such kernel")
    assert parts["sound"]["passed"]
    assert "no such kernel" in capsys.readouterr().err


@pytest.mark.processes
def test_without_ray_and_mlflow_all_but_the_study_is_there() -> None:
    program = """
import sys
sys.modules.update(ray=None, mlflow=None, optuna=None)
import gpu_check
outcome = gpu_check.study(gpu_check.TOY, None, None)
print(outcome["left_out"], *gpu_check.gpu_findings.lines("study", outcome), sep="\\n")
"""
    run = subprocess.run(
        [sys.executable, "-c", program],
        env={"PYTHONPATH": f"{ROOT / 'benchmarks'}:{ROOT}"},
        check=True,
        capture_output=True,
        text=True,
    )
    assert "is not installed" in run.stdout.splitlines()[0]
    assert run.stdout.splitlines()[1].startswith("left out")


def test_only_the_model_and_readings_may_wait(gpu_check: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mode of torch.cuda in each part of a step, as a recorder sees it."""
    modes, seen = ["default"], list[tuple[str, str]]()

    def noted(name: str, function: Any) -> Any:
        return lambda *a, **k: seen.append((name, modes[-1])) or function(*a, **k)

    def watch(optimizer: torch.optim.Optimizer, model: torch.nn.Module) -> None:
        optimizer.register_step_pre_hook(lambda *given: seen.append(("step", modes[-1])))
        model.backbone.register_forward_pre_hook(lambda *given: seen.append(("model", modes[-1])))

    class_loss = engine.class_loss
    monkeypatch.setattr(engine, "class_loss", lambda *a, **k: noted("class loss", class_loss(*a, **k)))
    monkeypatch.setattr(engine, "_read", noted("reading", engine._read))
    train(engine.CPU, 2, gpu_check.unsynchronised(modes.append), watch)
    a_step = [("model", "default"), ("class loss", "error"), ("reading", "default"), ("step", "error")]
    assert seen == 2 * a_step
    assert modes[-1] == "default"


@NEEDS_GPU
def test_what_waits_for_a_gpu_raises(gpu_check: ModuleType) -> None:
    number = torch.ones((), device="cuda")
    with gpu_check.unsynchronised(torch.cuda.set_sync_debug_mode), pytest.raises(RuntimeError, match="synchronizing"):
        number.item()
    assert number.item() == 1


@NEEDS_GPU
def test_training_on_a_gpu_does_not_wait_between_readings(gpu_check: ModuleType) -> None:
    within = gpu_check.unsynchronised(torch.cuda.set_sync_debug_mode)
    train(torch.device("cuda"), 2 * engine.GPU_STEPS_A_READING, within)
