import json
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist

from lncis import datasets, documents
from lncis.config import (
    AdamWOptimizer,
    CrossEntropyLoss,
    GeneralizedCrossEntropyLoss,
    LncisLoss,
    Schedule,
    SGDOptimizer,
    SymmetricNoise,
    TrainConfig,
)
from lncis.detection import checkpoint, engine, histograms, label_losses
from lncis.errors import ConfigError, DivergedError
from lncis.metrics import FLIP_METRICS, ROLE_METRICS, TEST_METRICS, VAL_METRICS, Record


def run(config: TrainConfig, folder: str, **options) -> list[Record]:
    return engine.train(config, datasets.load(config), Path(folder), **options)


def figures(history: list[Record]) -> list[Record]:
    return [{key: value for key, value in record.items() if key != "seconds"} for record in history]


def assert_same_training(one: str, other: str) -> None:
    a, b = (checkpoint.load(Path(folder) / engine.CHECKPOINT) for folder in (one, other))
    assert figures(a.history) == figures(b.history)
    assert histograms.read(Path(one)) == histograms.read(Path(other))
    assert [found.epoch for found in histograms.read(Path(one))] == list(range(1, a.epoch + 1))
    mine, theirs = (label_losses.read(Path(folder)) for folder in (one, other))
    assert mine is not None
    assert theirs is not None
    assert all(np.array_equal(getattr(mine, name), value, equal_nan=True) for name, value in vars(theirs).items())
    assert len(mine.losses) == a.epoch
    assert a.model.keys() == b.model.keys()
    assert all(torch.equal(a.model[key], b.model[key]) for key in a.model)
    for left, right in zip(a.optimizer["state"].values(), b.optimizer["state"].values(), strict=True):
        assert all(torch.equal(torch.as_tensor(left[key]), torch.as_tensor(right[key])) for key in left)


@pytest.fixture
def undisturbed(trained: Path) -> str:
    """The folder of a training from begin to end, to do with as one likes."""
    return str(shutil.copytree(trained, "undisturbed"))


def test_a_resumed_training_equals_an_undisturbed_one_to_the_bit(tiny, undisturbed):
    for stop in (1, 3):  # before and after the switch to stage 2
        run(tiny, "resumed", on_epoch=lambda record, stop=stop: record["epoch"] < stop)
    seen: list[float] = []
    run(tiny, "resumed", on_epoch=lambda record: seen.append(record["epoch"]) is None)
    assert seen == [1, 2, 3, 4], "restored epochs are reported first"
    assert_same_training("resumed", undisturbed)


TRAIN_INTO_AN_EPOCH = """
import sys, time
from dataclasses import replace
from pathlib import Path

import torch

from lncis import datasets, documents
from lncis.datasets import kept
from lncis.detection import engine
from lncis.config import TrainConfig

torch.set_num_threads(1)
kept.MEMORY_BYTES = 0  # each epoch reads every scene, so one can be held in any

class Held:
    def __init__(self, scenes):
        self.scenes, self.left = scenes, int(sys.argv[1])

    def __len__(self):
        return len(self.scenes)

    def __getitem__(self, index):
        if not self.left:
            print("held", flush=True)
            time.sleep(600)
        self.left -= 1
        return self.scenes[index]

    def __getattr__(self, name):
        return getattr(self.scenes, name)


config = documents.load(TrainConfig, Path("config.yaml"))
data = datasets.load(config)
engine.train(config, replace(data, train=Held(data.train)), Path("killed"))
"""


@pytest.mark.processes
def test_a_training_killed_in_an_epoch_resumes_to_the_same_result(tiny, undisturbed):
    Path("config.yaml").write_text(documents.to_yaml(tiny))
    for finished, resumed_from in ((1, 0), (3, 1)):  # in stage 1, and in stage 2
        scenes = 8 * (finished - resumed_from) + 6  # of the next epoch the first batch of four was learned
        command = [sys.executable, "-c", TRAIN_INTO_AN_EPOCH, str(scenes)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "held\n"
            process.kill()
        assert process.returncode == -signal.SIGKILL
        assert checkpoint.load(Path("killed") / engine.CHECKPOINT).epoch == finished
    run(tiny, "killed")
    assert_same_training("killed", undisturbed)


def test_forks_of_a_shared_stage_equal_the_same_trainings_run_alone(tiny, undisturbed):
    other = replace(tiny, loss=CrossEntropyLoss())
    run(other, "other alone")
    run(other, "stage1", until=2)  # whichever trial asks first trains it
    for config, fork, alone in ((tiny, "fork", undisturbed), (other, "other fork", "other alone")):
        run(config, fork, fork_from=Path("stage1"))
        assert_same_training(fork, alone)


def test_a_fork_of_a_fork_equals_the_same_training_run_alone(tiny, undisturbed):
    run(tiny, "first", until=1)
    run(tiny, "second", until=2, fork_from=Path("first"))
    run(tiny, "third", fork_from=Path("second"))
    assert_same_training("third", undisturbed)


def test_the_loss_switches_at_e1_and_not_before(tiny, undisturbed):
    lncis = figures(checkpoint.load(Path(undisturbed) / engine.CHECKPOINT).history)
    cross_entropy = figures(run(replace(tiny, loss=CrossEntropyLoss()), "cross entropy"))
    assert lncis[:2] == cross_entropy[:2]
    assert lncis[2]["train/loss_classifier"] != cross_entropy[2]["train/loss_classifier"]
    assert [record["train/isolated"] > 0 for record in lncis] == [False, False, True, True]


@pytest.mark.parametrize("loss", [GeneralizedCrossEntropyLoss(), LncisLoss(gamma=2.4, stagewise=False)])
def test_a_loss_without_stages_trains_alike_whatever_e1(tiny, loss):
    early, late = (replace(tiny, loss=loss, schedule=Schedule(epochs=2, stage1_epochs=e1)) for e1 in (0, 1))
    assert figures(run(early, "early")) == figures(run(late, "late"))
    assert_same_training("early", "late")
    plain = figures(run(replace(late, loss=CrossEntropyLoss()), "plain", until=1))
    assert figures(checkpoint.load(Path("late") / engine.CHECKPOINT).history)[:1] != plain


def test_each_epoch_says_what_its_samples_were(tiny, undisturbed):
    for record in checkpoint.load(Path(undisturbed) / engine.CHECKPOINT).history:
        assert set(ROLE_METRICS) <= record.keys()
        assert sum(record[key] for key in ROLE_METRICS[1:]) == pytest.approx(100)
        assert record["roles/samples"] <= 8 * 32
        assert {"roles/flipped_above_gamma", "roles/clean_above_gamma"} <= record.keys() & set(FLIP_METRICS)
    foreground = [sum(found.clean) + sum(found.flipped) for found in histograms.read(Path(undisturbed))]
    expected = [
        record["roles/samples"] * (100 - record["roles/negative"]) / 100
        for record in checkpoint.load(Path(undisturbed) / engine.CHECKPOINT).history
    ]
    assert foreground == pytest.approx(expected)


def test_flips_are_known_from_the_annotations_and_not_from_the_labels(tiny):
    """Where nothing is flipped no sample is called so, whatever the losses; where all is, none is called clean."""
    for rate, absent in ((0.0, "flipped"), (1.0, "clean")):
        run(replace(tiny, noise=SymmetricNoise(rate=rate)), f"rate {rate}", until=1)
        (found,) = histograms.read(Path(f"rate {rate}"))
        assert sum(getattr(found, absent)) == 0
        assert sum(found.clean) + sum(found.flipped) > 0


def test_histograms_that_were_lost_cost_no_training(tiny, undisturbed):
    run(tiny, "resumed", until=2)
    (Path("resumed") / histograms.FILE).unlink()
    run(tiny, "resumed")
    assert [found.epoch for found in histograms.read(Path("resumed"))] == [3, 4]
    assert histograms.read(Path("resumed")) == histograms.read(Path(undisturbed))[2:]


def test_a_histogram_ahead_of_the_checkpoint_is_taken_back(tiny, undisturbed):
    """A process may be killed between the two."""
    run(tiny, "killed", until=2)
    ahead = histograms.read(Path(undisturbed))[2]
    histograms.write([*histograms.read(Path("killed")), replace(ahead, clean=[9])], Path("killed"))
    run(tiny, "killed")
    assert_same_training("killed", undisturbed)


def test_test_scenes_are_evaluated_after_the_last_epoch_only(tiny):
    schedule = Schedule(epochs=3, evaluate_every=2)
    history = run(replace(tiny, schedule=schedule), "run")
    assert [set(VAL_METRICS) <= record.keys() for record in history] == [False, True, True]
    assert [set(TEST_METRICS) <= record.keys() for record in history] == [False, False, True]


def test_a_diverging_training_says_so_and_keeps_its_last_good_checkpoint(tiny):
    run(tiny, "run", until=1)
    with pytest.raises(DivergedError, match=r"the loss is .* in epoch 2, iteration \d.*lower optimizer.lr \(1e\+30\)"):
        run(replace(tiny, optimizer=AdamWOptimizer(lr=1e30)), "run")
    assert checkpoint.load(Path("run") / engine.CHECKPOINT).epoch == 1


def test_losses_that_are_read_seldom_are_the_same(tiny, undisturbed, monkeypatch):
    """As on a GPU: those of an epoch at once."""
    monkeypatch.setattr(engine, "CPU_STEPS_A_READING", engine.GPU_STEPS_A_READING)
    run(tiny, "read seldom")
    assert_same_training("read seldom", undisturbed)
    with pytest.raises(DivergedError, match=r"the loss is nan in epoch 1, iteration 2; lower"):
        run(replace(tiny, batch_size=2, optimizer=AdamWOptimizer(lr=1e30)), "diverged")  # of four steps


def test_an_evaluator_that_is_none_is_refused_before_the_first_epoch(tiny, monkeypatch):
    monkeypatch.setenv("LNCIS_COCO_EVAL", "coco")
    with pytest.raises(ConfigError, match=r"LNCIS_COCO_EVAL: must be hotcoco or pycocotools but got 'coco'"):
        run(tiny, "run", on_epoch=lambda record: pytest.fail("it was trained"))


def test_fused_sgd_is_plain_sgd_to_the_bit():
    generator = torch.Generator().manual_seed(0)
    start = [torch.randn(shape, generator=generator) for shape in ((64, 32, 3, 3), (257,))]
    gradients = [[torch.randn(p.shape, generator=generator) for p in start] for _ in range(4)]

    def trained(optimizer_of) -> list[torch.Tensor]:
        model = torch.nn.ParameterList(p.clone() for p in start)
        optimizer = optimizer_of(model)
        for step in gradients:
            for parameter, gradient in zip(model, step, strict=True):
                parameter.grad = gradient.clone()
            optimizer.step()
        return [p.detach() for p in model]

    config = SGDOptimizer(lr=0.02, momentum=0.9, weight_decay=1e-4)
    ours = trained(lambda model: engine.build_optimizer(model, config))
    plain = trained(
        lambda model: torch.optim.SGD(model, lr=0.02, momentum=0.9, weight_decay=1e-4, fused=False, foreach=False)
    )
    assert all(torch.equal(one, other) for one, other in zip(ours, plain, strict=True))


def test_the_learning_rate_warms_up_from_a_third_and_drops():
    config = TrainConfig(
        optimizer=AdamWOptimizer(lr=0.3), schedule=Schedule(epochs=12, lr_drops=(8, 11), warmup_iterations=10)
    )
    rates = [engine.learning_rate(config, epoch, i, 4) for epoch, i in ((0, 0), (1, 1), (2, 2), (8, 0), (11, 3))]
    assert rates == pytest.approx([0.1, 0.2, 0.3, 0.03, 0.003])


def test_clipped_gradients_move_the_weights_no_further_than_their_norm(tiny):
    """One step of plain SGD moves all weights by lr times the gradient, and so by lr times the norm it is cut to."""
    optimizer = SGDOptimizer(lr=0.5, momentum=0, weight_decay=0)
    config = replace(tiny, batch_size=8, optimizer=optimizer)
    engine.seed_all(config.seed, epoch=-1, rank=0)
    before = engine.build_model(config.model, 10).state_dict()

    def moved(max_grad_norm: float | None) -> tuple[float, torch.Tensor]:
        folder = f"cut at {max_grad_norm}"
        run(replace(config, optimizer=replace(optimizer, max_grad_norm=max_grad_norm)), folder, until=1)
        after = checkpoint.load(Path(folder) / engine.CHECKPOINT).model
        step = torch.cat([(after[key] - before[key]).flatten() for key in before])
        return step.norm().item(), step

    (whole, direction), (cut, same), (untouched, _) = moved(None), moved(0.1), moved(1e6)
    assert whole > 1
    assert cut == pytest.approx(0.5 * 0.1, rel=1e-3)
    assert untouched == whole
    assert torch.cosine_similarity(direction, same, dim=0).item() == pytest.approx(1, abs=1e-4)


def test_training_in_bf16_runs_and_evaluates(tiny):
    history = run(replace(tiny, precision="bf16"), "run", until=1)
    assert history[0]["train/loss"] == pytest.approx(figures(run(tiny, "fp32", until=1))[0]["train/loss"], rel=0.05)


def _rank_of_two(rank: int, config: TrainConfig) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{Path('rendezvous').absolute()}", rank=rank, world_size=2)
    data = datasets.load(config)
    engine.seed_all(0, epoch=-1, rank=0)
    model = engine.build_model(config.model, 10)
    found = engine.predict(model, data.test, engine.CPU)
    parallel = torch.nn.parallel.DistributedDataParallel(model)
    optimizer, loader = engine.build_optimizer(model, config.optimizer), engine.training_loader(config, data.train, 0)
    record, counts = engine.train_epoch(parallel, optimizer, loader, config, 0)
    torch.save((json.dumps(found), model.state_dict(), record, counts), f"rank{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.processes
def test_two_ranks_predict_what_one_does_and_train_one_model(tiny):
    torch.multiprocessing.spawn(_rank_of_two, (tiny,), nprocs=2)
    (found0, weights0, *counted0), (found1, weights1, *counted1) = (torch.load(f"rank{rank}.pt") for rank in (0, 1))
    engine.seed_all(0, epoch=-1, rank=0)
    model = engine.build_model(tiny.model, 10)
    alone = engine.predict(model, datasets.load(tiny).test, engine.CPU)
    assert len(alone) > 0
    assert found0 == found1 == json.dumps(alone)
    assert all(torch.equal(weights0[key], weights1[key]) for key in weights0), "the ranks saw different scenes"
    assert counted0[0] == counted1[0]
    assert torch.equal(counted0[1], counted1[1])
    assert counted0[0]["roles/samples"] == counted0[1].sum() > 4 * 32, "of both ranks: one alone has four scenes"
    assert any(not torch.equal(weights0[key], value) for key, value in model.state_dict().items())
