"""The files that a study leaves, from made-up journals."""

import csv
import io
import json
import math
import subprocess
import sys
import time
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from made_up_study import BOXES, CE, FAILED, METRIC, TEST, Book, study_spec
from rich.console import Console

from lncis import documents
from lncis.config import TrainConfig
from lncis.errors import StudyError
from lncis.studies.record.journal import SessionStarted
from lncis.studies.report import files as report
from lncis.studies.report import html, plots, separation, statistics, table
from lncis.studies.report.conclusions import conclusions
from lncis.studies.report.drawings import drawings
from lncis.studies.report.intervals import SHARED_IMAGES
from lncis.studies.report.result import StudyResult, from_journal

GAMMA = {"type": "float", "low": 3.0, "high": 9.0}
LR = {"type": "float", "low": 1e-5, "high": 1e-1, "log": True}
A = {"type": "categorical", "choices": [-2.0, -4.0, -8.0]}
BATCH = {"type": "categorical", "choices": [4, 6, 8, 10, 12]}
AP50, AP75 = "test/segm_AP50", "test/segm_AP75"
FILES = ["results.json", "table.csv", "table.txt", "plot.png", "report.html", "best.yaml"]


def book_of(spec, points, value, *, skip=lambda trial: False) -> Book:
    """The baselines and the points, each trained to `value(trial)`, but for those trials that are skipped."""
    book = Book(spec)
    tried = [*spec.baselines.items(), *((None, point) for point in points)]
    for number, (name, overrides) in enumerate(tried):
        for trial in spec.trials(number, overrides, baseline=name):
            if not skip(trial):
                reached = value(trial)
                book.train(trial, reached, **{AP50: reached + 20, AP75: reached + 10, BOXES: 50 - reached})
    return book


def sampled(number: int, **fields):
    """A spec of so many configurations."""
    return study_spec(sampler={"type": "random", "configurations": number}, baselines={}, seeds=[0], **fields)


def finished(book: Book, directory: Path = Path("runs")) -> StudyResult:
    book.end_session()
    return book.result(directory)


def small(directory: Path = Path("runs"), **fields) -> StudyResult:
    """Three gammas and cross entropy; gamma = 5 is best."""
    spec = study_spec(**fields)
    best = {4.0: 30.0, 5.0: 33.0, 6.0: 32.5}
    return finished(
        book_of(spec, spec.grid, lambda t: best.get(t.config.loss.gamma, 0) + t.seed if t.baseline is None else 20),
        directory,
    )


def shown(result: StudyResult, width: int = 160) -> str:
    text = io.StringIO()
    Console(file=text, width=width).print(table.result_table(result))
    return text.getvalue()


def row_of(text: str, label: str) -> str:
    (row,) = (line for line in text.splitlines() if line.startswith("│") and label in line)
    return row


# importance


def of_points(points: list[dict], value, **fields) -> StudyResult:
    spec = sampled(len(points), **fields)
    return finished(book_of(spec, points, lambda t: value(t.overrides)))


def random_points(number: int, **more) -> list[dict]:
    draw = np.random.default_rng(5)
    return [
        {"loss.gamma": draw.uniform(3, 9), "optimizer.lr": 10 ** draw.uniform(-5, -1), **more} for _ in range(number)
    ]


@pytest.mark.parametrize("mode", ["max", "min"])
@pytest.mark.parametrize("method", ["fANOVA", "mean decrease in impurity"])
def test_importance_is_the_share_of_the_variance(mode, method, monkeypatch):
    # on a full grid gamma adds 0, 6, 0 and A adds 0, 2, 4: variances 8 and 8/3, shares 3/4 and 1/4
    search = {"loss.gamma": {"type": "categorical", "choices": [4.0, 5.0, 6.0]}, "loss.A": A, "batch_size": BATCH}
    effect = {4.0: 0, 5.0: 6, 6.0: 0}
    added = {-2.0: 0, -4.0: 2, -8.0: 4}
    result = of_points(
        study_spec(search=search).grid,
        lambda o: 30 + effect[o["loss.gamma"]] + added[o["loss.A"]],
        search=search,
        objective={"metric": METRIC, "mode": mode},
    )
    monkeypatch.setattr(statistics, "FANOVA_MOST", 100 if method == "fANOVA" else 30)
    assert statistics.importance_method(result) == method
    found = statistics.importance(result)
    assert list(found) == ["loss.gamma", "loss.A", "batch_size"]
    assert list(found.values()) == pytest.approx([0.75, 0.25, 0], abs=0.08)
    assert statistics.importance(result) == found, "the same study gives the same figures"


@pytest.mark.parametrize("number", [60, 200])
def test_importance_takes_a_log_range_by_its_logarithm(number):
    # gamma spans 6 and log10 lr spans 4: of the variance, 36 against 16; linearly lr would count for almost nothing
    result = of_points(
        random_points(number),
        lambda o: o["loss.gamma"] - math.log10(o["optimizer.lr"]),
        search={"loss.gamma": GAMMA, "optimizer.lr": LR},
    )
    assert statistics.importance(result)["optimizer.lr"] == pytest.approx(16 / 52, abs=0.1)


@pytest.mark.parametrize("number", [30, 200])
def test_importance_knows_parameters_that_only_some_configurations_have(number):
    search = {
        "optimizer.lr": LR,
        "loss.type": {"type": "categorical", "choices": ["lncis", "cross_entropy"]},
        "loss.gamma": {**GAMMA, "when": {"loss.type": "lncis"}},
    }
    draw = np.random.default_rng(2)
    points = [
        {"optimizer.lr": 10 ** draw.uniform(-5, -1), "loss.type": name}
        | ({"loss.gamma": draw.uniform(3, 9)} if name == "lncis" else {})
        for name in ["lncis", "cross_entropy"] * (number // 2)
    ]
    result = of_points(points, lambda o: o.get("loss.gamma", 2.0), search=search)
    assert list(statistics.importance(result)) == ["loss.type", "loss.gamma", "optimizer.lr"]
    assert statistics.importance(result)["optimizer.lr"] < 0.05


@pytest.mark.parametrize(
    ("points", "value"),
    [
        (random_points(3), lambda o: o["loss.gamma"]),
        (random_points(9), lambda o: 30.0),
        ([{**point, "optimizer.lr": 1e-3} for point in random_points(9)], lambda o: o["loss.gamma"]),
        (random_points(9), lambda o: math.nan),
    ],
    ids=["three configurations", "all reach the same", "one parameter varies", "nothing finished"],
)
def test_importance_is_silent_where_nothing_can_be_said(points, value):
    result = of_points(points, value, search={"loss.gamma": GAMMA, "optimizer.lr": LR})
    assert statistics.importance(result) == {}
    assert not any("importance" in line for line in conclusions(result))


def test_importance_of_several_goals_is_for_the_objective():
    fields = {"search": {"loss.gamma": GAMMA, "optimizer.lr": LR}}
    points = random_points(20)
    one = of_points(points, lambda o: o["loss.gamma"], **fields)
    two = of_points(points, lambda o: o["loss.gamma"], secondary_objectives=[{"metric": BOXES}], **fields)
    assert statistics.importance(two) == statistics.importance(one)


# variance split


def crossed(values: np.ndarray) -> StudyResult:
    """values[configuration, noise draw, training seed]."""
    number, draws, seeds = values.shape
    spec = study_spec(
        search={"batch_size": {"type": "int", "low": 4, "high": 999}},
        sampler={"type": "random", "configurations": number},
        baselines={},
        seeds=list(range(seeds)),
        noise_seeds=list(range(10, 10 + draws)),
    )
    points = [{"batch_size": number + 4} for number in range(len(values))]
    return finished(book_of(spec, points, lambda t: values[t.configuration, t.noise_seed - 10, t.seed]))


def test_variance_split_by_hand():
    # noise draws add 0 and 4, seeds 0 and 2, their interplay 0: components 16/2 and 4/2, and no rest
    split = statistics.variance_split(crossed(np.array([[[30.0, 32.0], [34.0, 36.0]]])), METRIC)
    assert (split.noise_draw, split.training_seed, split.rest) == pytest.approx((0.8, 0.2, 0))
    assert split.deviation == pytest.approx(math.sqrt(10))


def test_variance_split_with_interplay_by_hand():
    # y = 30 34 / 32 48: means 36; effects draw -4 4, seed -5 5; residuals 3 -3 -3 3: MS 64, 100, 36
    split = statistics.variance_split(crossed(np.array([[[30.0, 34.0], [32.0, 48.0]]])), METRIC)
    assert split.deviation**2 == pytest.approx(14 + 32 + 36)
    assert (split.noise_draw, split.training_seed, split.rest) == pytest.approx((14 / 82, 32 / 82, 36 / 82))


def test_variance_split_is_what_regression_gives():
    values = np.random.default_rng(0).normal(30, 2, size=(3, 4, 5)) + np.arange(4)[:, None]
    n, t = 4, 5
    draw, seed = (np.eye(n)[:, None, :] + np.zeros((n, t, n))), (np.eye(t)[None] + np.zeros((n, t, t)))

    def residual(y, *effects) -> float:
        design = np.concatenate([np.ones((n, t, 1)), *effects], axis=2).reshape(n * t, -1)
        fit = design @ np.linalg.lstsq(design, y.reshape(-1), rcond=None)[0]
        return float(((y.reshape(-1) - fit) ** 2).sum())

    rest = np.mean([residual(y, draw, seed) / ((n - 1) * (t - 1)) for y in values])
    by_draw = np.mean([(residual(y, seed) - residual(y, draw, seed)) / (n - 1) for y in values])
    by_seed = np.mean([(residual(y, draw) - residual(y, draw, seed)) / (t - 1) for y in values])
    parts = np.clip([(by_draw - rest) / t, (by_seed - rest) / n, rest], 0, None)
    split = statistics.variance_split(crossed(values), METRIC)
    assert [split.noise_draw, split.training_seed, split.rest] == pytest.approx(list(parts / parts.sum()))


def test_variance_split_finds_simulated_components():
    draw = np.random.default_rng(1)
    size = (40, 6, 6)
    noise = draw.normal(0, 3, size=(40, 6, 1)) + draw.normal(0, 2, size=(40, 1, 6)) + draw.normal(0, 1, size=size)
    split = statistics.variance_split(crossed(30 + noise + 5 * np.arange(40)[:, None, None]), METRIC)
    assert [split.noise_draw, split.training_seed, split.rest] == pytest.approx([9 / 14, 4 / 14, 1 / 14], abs=0.05)
    assert split.deviation == pytest.approx(math.sqrt(14), rel=0.1)


@pytest.mark.parametrize(("shape", "spread"), [((2, 1, 3), 1), ((2, 3, 1), 1), ((2, 2, 2), 0)])
def test_variance_split_needs_two_of_each_and_some_variance(shape, spread):
    values = 30 + spread * np.random.default_rng(0).normal(size=shape)
    assert statistics.variance_split(crossed(values), METRIC) is None


def test_variance_split_without_noise_seeds_or_results_is_none():
    assert statistics.variance_split(small(), METRIC) is None
    spec = study_spec(noise_seeds=[1, 2])
    assert statistics.variance_split(Book(spec).result(), METRIC) is None


# table and conclusions


def test_the_table_has_the_papers_shape_and_marks_the_best():
    paper = {
        "table": "Table 6",
        "rows": [
            {"set": CE, "AP": 31.5, "AP50": 57.4, "AP75": 31.0},
            {"set": {"loss.gamma": 5.0}, "AP": 38.1, "AP50": 64.5, "AP75": 40.0},
        ],
    }
    text = shown(small(paper=paper))
    title = "s: digits, symmetric noise 40%, E = 4, E1 = 2, 2 seeds, mean ± 95 % CI for this draw of the noise"
    assert title in " ".join(text.split())
    # 33 and 34: mean 33.5, half-width 12.706 * 0.5
    cells = [cell.strip() for cell in row_of(text, "gamma = 5").strip("│").split("│")]
    assert cells == ["* gamma = 5", "33.5 ± 6.4", ">99%", "34.5 ± 6.4", "53.5 ± 6.4", "43.5 ± 6.4", "38.1  64.5  40.0"]
    assert "31.5  57.4  31.0" in row_of(text, " ce ")
    assert text.count("│ * ") == 1
    assert "state" not in text
    assert "paper: Table 6" in text


def test_the_conclusions_of_a_finished_study():
    lines = conclusions(small())
    assert lines[:5] == [
        "* best by mean val/segm_AP: gamma = 5",
        "  told apart from all others (95 %, all comparisons together)",
        "  probability of having the best expectation, given these figures: "
        "gamma = 5 >99%, gamma = 4 <1%, gamma = 6 <1%",
        "  its mean is about 0.0 too good, as it was picked as the best of 3",
        # 34 - 21 and 35 - 21
        "  +13.5 ± 6.4 test AP over ce (paired over 2 seeds, for this draw of the noise)",
    ]
    assert not any("Kendall" in line for line in lines), "three configurations have no order to speak of"
    # 8 trials of 4 epochs; the first 2 of each seed are shared by 4
    assert lines[-2:] == [
        "cost: 20 epochs trained for 32 requested (12 shared, 0 from earlier studies, 0 skipped by pruning or failure)",
        "  5.3 min, 2.7 worker-minutes of training of 10.7 held",
    ]


def undecided(**fields) -> StudyResult:
    """Two gammas that two seeds cannot tell apart, the lower one with the higher mean."""
    spec = study_spec(search={"loss.gamma": {"type": "categorical", "choices": [4.0, 5.0]}}, **fields)
    values = {(4.0, 0): 31, (4.0, 1): 35, (5.0, 0): 33, (5.0, 1): 32}
    return finished(book_of(spec, spec.grid, lambda t: values.get((t.overrides.get("loss.gamma"), t.seed), 20)))


def test_what_the_seeds_cannot_tell_apart_is_named_and_has_no_star():
    result = undecided()
    text, lines = shown(result), conclusions(result)
    assert "= best by mean val/segm_AP: gamma = 4" in lines
    assert "  cannot be told apart from it (95 %, all comparisons together): gamma = 5" in lines
    assert "│ = gamma = 4" in text and "│ = gamma = 5" in text and "│ * " not in text
    chances = result.probability_of_best
    (line,) = (line for line in lines if "probability" in line)
    assert f"gamma = 4 {chances[1]:.0%}, gamma = 5 {chances[2]:.0%}" in line
    assert 0.5 < chances[1] < 0.8
    (line,) = (line for line in lines if "too good" in line)
    assert line == f"  its mean is about {result.selection.optimism:.1f} too good, as it was picked as the best of 2"
    page = html.report_html(result)
    assert ">selected</span>" in page and ">not told apart</span>" in page and ">best</span>" not in page


def test_the_plots_have_a_star_only_where_one_is_told_apart():
    def marks(result: StudyResult) -> list[tuple[str, str]]:
        lines = [line for line in plots.responses(result).axes[0].lines if line.get_markersize() > 10]
        return [(line.get_marker(), line.get_label()) for line in lines]

    assert marks(small()) == [("*", "best")]
    assert marks(undecided()) == [("o", "selected"), ("o", "cannot be told apart")]
    assert marks(small(seeds=[0])) == [("o", "selected")]
    captions = [next(drawings(result)).caption for result in (small(), undecided(), small(seeds=[0]))]
    assert captions[0].endswith("The star is the best configuration.")
    assert captions[1].endswith("there is no single best.")
    assert captions[2].endswith("one seed cannot tell it apart from others.")


def test_the_number_of_pairs_is_said_where_some_are_missing():
    spec = study_spec(seeds=[0, 1, 2])
    skipped = book_of(spec, spec.grid, lambda t: 30.0 + t.seed, skip=lambda t: bool(t.baseline) and t.seed == 1)
    assert any("(paired over 2 pairs of 3 seeds, for this" in line for line in conclusions(finished(skipped)))


def of_what_sets_itself(**fields) -> StudyResult:
    spec = study_spec(search={"loss.gamma": {"type": "categorical", "choices": [4.0, "auto"]}}, **fields)
    book = Book(spec)
    for number, (name, overrides) in enumerate([("ce", spec.baselines["ce"]), *((None, o) for o in spec.grid)]):
        for trial in spec.trials(number, overrides, baseline=name):
            itself = {"auto/gamma": 5.07 + trial.seed / 10, "auto/noise_rate": 41.0}
            auto = getattr(trial.config.loss, "gamma", None) == "auto"
            book.train(trial, 31.0 + trial.seed if auto else 30.0, **(itself if auto else {}))
    return finished(book)


def test_what_trainings_set_themselves_is_said_with_its_range_over_the_seeds():
    result = of_what_sets_itself()
    (line,) = [line for line in conclusions(result) if "set itself" in line]
    assert line == "gamma = auto set itself: gamma 5.07 to 5.17 nats, noise rate 41.0 %"
    assert separation.gamma_shown(result) == pytest.approx(5.12), "of the best: the mean over its seeds"
    assert not any("set itself" in line for line in conclusions(small()))


def test_the_title_says_that_e1_sets_itself():
    result = of_what_sets_itself(base={"schedule": {"epochs": 4, "stage1_epochs": "auto"}})
    assert "E = 4, E1 = auto," in table.study_title(result)


def test_from_six_configurations_on_the_orders_are_compared_with_an_interval():
    points = [{"loss.gamma": 3.0 + n} for n in range(7)]
    result = of_points(points, lambda o: o["loss.gamma"], search={"loss.gamma": {**GAMMA, "high": 10.0}})
    found = result.rank_agreement
    assert (
        "rank agreement of noisy val with clean test in segm_AP: Kendall's tau +1.00 "
        f"(95 % CI {found.low:+.2f} to +1.00) over 7 configurations (+1: same order)"
    ) in conclusions(result)
    captions = {drawing.title: drawing.caption for drawing in drawings(result)}
    assert captions["Noisy val against clean test"].endswith(f"tau +1.00 (95 % CI {found.low:+.2f} to +1.00).")


def test_the_title_says_the_realised_rate(tmp_path):
    result = small(tmp_path)
    stage = tmp_path / "stages" / "two-0001-seed0"
    stage.mkdir(parents=True)
    (stage / "noise.json").write_text(json.dumps({"train": {"realised_rate": 0.348}}))
    assert "symmetric noise 40% (realised 34.8%), E = 4" in table.study_title(result)
    assert "realised" not in table.study_title(small())


def test_one_seed_decides_nothing():
    lines = conclusions(small(seeds=[0]))
    assert lines[0] == "best by mean val/segm_AP: gamma = 5", "no mark"
    assert "  one seed: differences may be chance; more seeds would show" in lines
    assert "  +13.0 test AP over ce (one seed)" in lines
    assert table.study_title(small(seeds=[0])).endswith("E1 = 2, 1 seed")


@pytest.mark.parametrize(
    ("noise", "words"),
    [
        ({"type": "none"}, "no noise"),
        ({"type": "release-compat", "rate": 0.8}, "release-compat noise 80%"),
        ({"type": "matrix", "classes": ["a"], "rows": [[1]]}, "noise by a matrix"),
    ],
)
def test_the_title_says_the_noise(noise, words):
    assert f"s: digits, {words}, E = 4" in table.study_title(small(base={"schedule": {"epochs": 4}, "noise": noise}))


def test_ones_own_labels_are_not_said_to_be_clean():
    own = {"type": "coco", "images": "images", "train": "noisy.json", "test": "clean.json"}
    spec = study_spec(base={"dataset": own, "noise": {"type": "none"}})
    assert "s: coco, labels as they are, E = 20" in table.study_title(replace(small(), spec=spec))


def test_noise_draws_count_as_replicates_and_of_four_their_share_is_told():
    result = crossed(np.array([[[30.0, 32.0, 31.0], [34.0, 36.0, 35.0]]]))
    assert table.study_title(result).endswith("3 seeds x 2 noise draws, mean ± 95 % CI")
    lines = conclusions(result)
    assert not any("spread" in line for line in lines), "of two draws the share may be anything"
    assert any(line.startswith("two noise draws say little") for line in lines)
    result = crossed(np.array([[[30.0, 32.0, 31.0], [34.0, 36.0, 35.0]] * 2]))
    lines = conclusions(result)
    (line,) = (line for line in lines if METRIC in line and "spread" in line)
    # means of the draws 31 35 31 35: variance 16/3; of the seeds 32 34 33: variance 1
    assert "standard deviation 2.5; of the variance 84% noise draw, 16% training seed, 0% the rest" in line
    assert not any(line.startswith("two noise draws") for line in lines)


@pytest.mark.parametrize(("mode", "end"), [("max", "lower"), ("min", "upper")])
def test_the_conclusions_say_how_the_best_was_chosen(mode, end):
    result = small(objective={"select": "lower_bound", "mode": mode})
    best = "gamma = 5" if mode == "max" else "gamma = 4"
    assert f"* best by the {end} bound of the 95 % interval of mean val/segm_AP: {best}" in conclusions(result)
    assert f"by the {end} bound of the 95 % interval of mean val/segm_AP over seeds 0, 1" in table.best_yaml(result)


def test_secondary_objectives_have_columns_and_a_front():
    result = small(secondary_objectives=[{"metric": BOXES}])  # boxes fall as masks rise: nothing is beaten
    text = shown(result)
    assert BOXES in text
    assert "│ *^ gamma = 5" in text
    assert "│ ^  gamma = 4" in text
    assert "^ on the Pareto front of val/segm_AP and val/bbox_AP: 3 of 3: gamma = 4; gamma = 5; gamma = 6" in text
    less = shown(small(secondary_objectives=[{"metric": BOXES, "mode": "min"}]))
    assert "^ on the Pareto front of val/segm_AP and val/bbox_AP: 1 of 3: gamma = 5" in less
    assert "(noisy, min)" in less


def pruned_and_failed(directory: Path = Path("runs")) -> StudyResult:
    """gamma = 4 finished, 5 is pruned after epoch 3, of 6 the second seed failed."""
    spec = study_spec(pruner={"type": "asha"})
    book = book_of(spec, spec.grid[:1], lambda t: 30.0)
    for trial in spec.trials(2, spec.grid[1]):
        book.train(trial, 20.0 + 4 * trial.seed, until=3)
    one, other = spec.trials(3, spec.grid[2])
    book.train(one, 31.0)
    book.start(other)
    book.epoch(other, 1)
    book.end(other, FAILED, "the loss is nan <at> epoch 2 & more")
    return finished(book, directory)


def test_pruned_and_failed_configurations_say_where_and_why():
    result = pruned_and_failed()
    text = shown(result)
    assert "pruned after epoch 3, at 16.5" in row_of(text, "gamma = 5")  # 3/4 of 20 and 24
    assert "seed 1 failed" in row_of(text, "gamma = 6")
    assert "pruned by asha: 1 of 3 configurations" in text
    assert "failed: gamma = 6, seed 1: the loss is nan <at> epoch 2 & more" in text
    assert "* best by mean val/segm_AP: gamma = 4" in text
    assert "unfinished" not in text
    assert "skipped by pruning or failure" in text


def test_failures_with_one_reason_are_one_line():
    spec = study_spec(seeds=[0, 1, 2])
    book = Book(spec)
    for number, overrides in enumerate(spec.grid, start=1):
        for trial in spec.trials(number, overrides):
            book.start(trial)
            book.end(trial, FAILED, "out of memory")
    lines = conclusions(finished(book))
    assert [line for line in lines if line.startswith("failed")] == [
        "failed: gamma = 4, seed 0 and 8 more: out of memory"
    ]
    assert "no configuration has finished with every seed" in lines


def test_an_unfinished_study_says_so():
    spec = study_spec()
    book = book_of(spec, spec.grid[:1], lambda t: 30.0)
    one, other = spec.trials(2, spec.grid[1])
    book.train(one, 31.0)
    book.start(other)
    text = shown(book.result())
    assert "unfinished: 5 of 8 trials ended" in text
    assert "* best so far by mean val/segm_AP: gamma = 4" in text
    assert "1 of 2 trainings done" in row_of(text, "gamma = 5")
    assert "not trained yet or skipped" in text


def test_a_configuration_that_was_left_out_is_not_waited_for():
    spec = sampled(3, search={"loss.gamma": GAMMA})
    book = Book(spec)
    for number in (0, 2):
        (trial,) = spec.trials(number, {"loss.gamma": 4.0 + number})
        book.train(trial, 30.0)
    assert not any("unfinished" in line for line in conclusions(finished(book)))


def test_of_many_configurations_the_table_shows_the_best_and_says_how_many_more():
    spec = study_spec(
        search={"batch_size": {"type": "int", "low": 1, "high": 9999}},
        sampler={"type": "random", "configurations": 200},
        seeds=[0],
    )
    order = np.random.default_rng(0).permutation(200)
    result = finished(
        book_of(spec, [{"batch_size": 1000 + i} for i in range(200)], lambda t: 10 + order[t.configuration - 1] / 10)
    )
    text = shown(result)
    rows = [line for line in text.splitlines() if "batch_size = " in line and line.startswith("│")]
    best = [f"batch_size = {1000 + i}" for i in np.argsort(-order)[:30]]
    assert [row.split("│")[1].strip(" *") for row in rows] == best
    assert "│   ce " in text
    assert "the best 30 are shown; 170 more are in table.csv" in text


def test_conditional_parameters_may_be_absent():
    search = {
        "loss.type": {"type": "categorical", "choices": ["lncis", "cross_entropy"]},
        "loss.gamma": {"type": "categorical", "choices": [4.0, 6.0], "when": {"loss.type": "lncis"}},
    }
    spec = study_spec(search=search, baselines={})
    result = finished(book_of(spec, spec.grid, lambda t: 30 + t.seed + t.overrides.get("loss.gamma", 0)))
    assert len(result.searched) == 3
    assert "│   cross_entropy " in shown(result)
    rows = list(csv.DictReader(table.trials_csv(result).splitlines()))
    assert [row["loss.gamma"] for row in rows] == ["4.0", "4.0", "6.0", "6.0", "", ""]
    test, val = plots.responses(result).axes[1], plots.responses(result).axes[3]
    assert {len(line.get_xdata()) for line in (test.lines[0], val.lines[0])} == {4}, "two seeds of two gammas"
    assert "cross_entropy" in html.report_html(result)


def test_names_are_not_taken_for_markup():
    text = shown(small(baselines={"[red]a[/red] $x_ <b>": CE}))
    assert "[red]a[/red] $x_ <b>" in text


@pytest.mark.processes
def test_the_table_needs_no_matplotlib():
    unwanted = ("matplotlib", "jinja2", "torch")
    code = f"import sys, lncis.studies.report.table; print([m for m in {unwanted} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# table.csv


def test_csv_reads_back_with_every_trial():
    result = pruned_and_failed()
    rows = list(csv.DictReader(table.trials_csv(result).splitlines()))
    assert len(rows) == len(result.trials) == 8
    trials = [t for c in result.configurations for t in c.trials]
    for row, t in zip(rows, trials, strict=True):
        assert (int(row["configuration"]), int(row["seed"]), row["noise_seed"]) == (
            t.trial.configuration,
            t.trial.seed,
            "",
        )
        assert row["baseline"] == (t.trial.baseline or "")
        assert row["loss.gamma"] == ("" if t.trial.baseline else str(t.trial.overrides["loss.gamma"]))
        assert (row["end"], row["reason"], int(row["epochs"])) == (t.end, t.reason, len(t.records))
        assert row[TEST] == ("" if math.isnan(t.last(TEST)) else f"{t.last(TEST):.4f}")
    assert [row["end"] for row in rows[4:]] == ["pruned", "pruned", "finished", "failed"]


def test_folds_stand_in_every_line_and_their_interval_is_explained():
    spec = study_spec(seeds=[0, 1], folds=2)
    result = finished(book_of(spec, spec.grid[:2], lambda t: 30.0 + t.configuration + 5 * t.fold.number))
    rows = list(csv.DictReader(table.trials_csv(result).splitlines()))
    assert [(row["seed"], row["fold"]) for row in rows[:4]] == [("0", "0"), ("0", "1"), ("1", "0"), ("1", "1")]
    assert "2 seeds x 2 folds, mean ± 95 % CI" in table.study_title(result)
    assert SHARED_IMAGES in conclusions(result)


def test_csv_of_noise_draws():
    rows = list(csv.DictReader(table.trials_csv(crossed(np.full((1, 2, 2), 30.0))).splitlines()))
    assert [(row["seed"], row["noise_seed"]) for row in rows] == [("0", "10"), ("1", "10"), ("0", "11"), ("1", "11")]


# plots


def test_responses_draw_every_trial_of_every_parameter():
    points = random_points(20, **{"loss.A": -4.0})
    search = {"loss.gamma": GAMMA, "optimizer.lr": LR, "loss.A": A, "batch_size": {"type": "int", "low": 4, "high": 8}}
    points = [{**point, "batch_size": 4 + i % 5} for i, point in enumerate(points)]
    result = of_points(points, lambda o: o["loss.gamma"], search=search)
    drawn = plots.responses(result).axes
    assert len(drawn) == 8, "four parameters in two rows, two panels each"
    by_name = {axes.get_xlabel(): axes for axes in drawn if axes.get_xlabel()}
    assert list(by_name) == list(search)
    assert by_name["optimizer.lr"].get_xscale() == "log"
    assert [tick.get_text() for tick in by_name["loss.A"].get_xticklabels()] == ["-2", "-4", "-8"]
    for path in ("loss.gamma", "optimizer.lr", "batch_size"):
        dots = by_name[path].lines[0]
        assert sorted(dots.get_xdata()) == sorted(point[path] for point in points)
    test = drawn[0].lines[0]
    assert sorted(test.get_ydata()) == pytest.approx(sorted(point["loss.gamma"] + 1 for point in points))


def test_curves_draw_every_training_and_the_means():
    result = small()
    axes = plots.curves(result).axes[0]
    lines = {line.get_label(): line for line in axes.lines if not line.get_label().startswith("_")}
    assert list(lines) == ["ce", "gamma = 4", "gamma = 5 (best)", "gamma = 6"]
    assert list(lines["gamma = 4"].get_xdata()) == [1, 2, 3, 4]
    assert list(lines["gamma = 4"].get_ydata()) == pytest.approx([30.5 / 4, 30.5 / 2, 30.5 * 3 / 4, 30.5])
    single = [line for line in axes.lines if line.get_linewidth() == 0.8 and len(line.get_xdata()) == 4]
    assert len(single) == 8


def test_of_many_curves_only_best_and_baselines_stand_out():
    spec = study_spec(
        search={"loss.gamma": GAMMA}, sampler={"type": "random", "configurations": 20}, baselines={"ce": CE}
    )
    points = [{"loss.gamma": 3 + i / 4} for i in range(20)]
    result = finished(book_of(spec, points, lambda t: 20 + t.overrides.get("loss.gamma", 0)))
    axes = plots.curves(result).axes[0]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [
        "ce",
        "gamma = 7.75 (best)",
        "the other configurations",
    ]
    (faint,) = axes.collections
    assert len(faint.get_segments()) == 19 * 2


def test_the_front_is_drawn_in_order():
    figure = plots.pareto(small(secondary_objectives=[{"metric": BOXES}]))
    front = next(line for line in figure.axes[0].lines if line.get_label() == "Pareto front")
    assert list(front.get_xdata()) == [30.5, 33.0, 33.5]
    assert list(front.get_ydata()) == [19.5, 17.0, 16.5]


def test_every_drawing_has_a_caption_and_only_what_there_are_data_for():
    titles = [drawing.title for drawing in drawings(small())]
    assert titles == ["Each parameter", "Learning curves", "Noisy val against clean test"]
    assert all(drawing.caption.endswith(".") for drawing in drawings(small()))
    assert list(drawings(Book(study_spec()).result())) == []
    several = of_points(
        random_points(8),
        lambda o: o["loss.gamma"],
        search={"loss.gamma": GAMMA, "optimizer.lr": LR},
        secondary_objectives=[{"metric": BOXES}],
    )
    assert [drawing.title for drawing in drawings(several)][3:] == ["Trade-offs", "Importance of the parameters"]


# report.html


class Page(HTMLParser):
    """What a browser would load, and whether all tags close in order."""

    VOID = ("meta", "img", "br", "link", "input")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open, self.loaded, self.tags, self.targets, self.ids, self.words = [], [], [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        if tag not in self.VOID:
            self.open.append(tag)
        for name, value in attributes:
            assert not name.startswith("on"), f"{tag} has a script in {name}"
            if name == "href" and tag == "a":
                self.targets.append(value)
            elif name in ("src", "href", "srcset", "action", "data", "poster", "background"):
                self.loaded.append(value)
            elif name == "id":
                self.ids.append(value)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def check_page(text: str) -> Page:
    page = Page(text)
    assert text.startswith("<!DOCTYPE html>\n<html lang=")
    assert not {"script", "iframe", "link", "object", "base", "form"} & set(page.tags)
    assert all(value.startswith("data:image/png;base64,") for value in page.loaded)
    assert all(value.startswith("#") or value in FILES for value in page.targets)
    assert {value[1:] for value in page.targets if value.startswith("#")} <= set(page.ids)
    style = text.partition("<style>")[2].partition("</style>")[0]
    assert "url(" not in style
    assert "@import" not in style
    assert page.tags.count("title") == page.tags.count("h1") == 1
    assert page.tags.count("caption") == page.tags.count("table")
    return page


def test_the_report_holds_everything_and_loads_nothing():
    result = small(question="Which gamma?", secondary_objectives=[{"metric": BOXES}])
    page = check_page(html.report_html(result))
    words = " ".join("".join(page.words).split())
    for part in (
        "Which gamma?",
        "best by mean val/segm_AP: gamma = 5",
        "33.5 ± 6.4",
        "+13.5 ± 6.4",
        "Pareto front",
        "requested = trained + shared + reused + skipped",
        "Best of study s-1",
        "noise: type: symmetric",
        "secondary_objectives: - metric: val/bbox_AP",
    ):
        assert part in words, part
    assert len(page.loaded) == 4


def test_the_report_shows_the_difference_of_each_configuration_to_each_baseline():
    result = small(baselines={"ce": CE, "other": {"loss.gamma": 90.0}})
    rows = html._rows(result, result.configurations[:2], result.configurations)
    assert [row["over"] for row in rows][:3] == [["", "+0.0 ± 0.0"], ["+0.0 ± 0.0", ""], ["+10.5 ± 6.4"] * 2]


def test_names_are_escaped_in_the_report():
    evil = '<script>alert("1")</script> & </pre> $\\frac{ _x $'
    result = small(question=evil, baselines={evil: CE}, paper={"table": "https://evil.example/<img src=x>", "rows": []})
    page = check_page(html.report_html(result))
    assert sum(evil in words for words in page.words) >= 3, "as text: question, baseline's row, its column"
    plots.overview(result).savefig("plot.png")


def test_failed_and_pruned_trials_are_in_the_report_with_their_reasons():
    words = "".join(check_page(html.report_html(pruned_and_failed())).words)
    assert "the loss is nan <at> epoch 2 & more" in words
    assert "asha: behind the others after epoch 3" in words


def test_the_report_names_the_versions_of_all_sessions():
    events = [
        SessionStarted(time=1.0, worker_groups=2, versions={"lncis.version.torch": version}, code="c", storage="")
        for version in ("2.11.0", "2.12.0", "2.12.0")
    ]
    result = from_journal("s", study_spec(), Path("s"), events)
    assert result.versions == {"torch": "2.11.0, then 2.12.0"}
    assert "2.11.0, then 2.12.0" in "".join(check_page(html.report_html(result)).words)


@pytest.mark.parametrize("epochs", [0, 3])
def test_a_study_that_has_just_begun_has_a_report(epochs):
    book = Book(study_spec())
    (trial, _) = book.spec.trials(0, CE, baseline="ce")
    if epochs:
        book.start(trial)
    for epoch in range(1, epochs + 1):
        book.epoch(trial, epoch, **{METRIC: 3.0})
    words = "".join(check_page(html.report_html(book.result())).words)
    assert "unfinished: 0 of 8 trials ended" in words
    assert "no configuration has finished" in words


def test_a_thousand_configurations_are_reported_in_seconds(tmp_path):
    spec = study_spec(
        search={"loss.gamma": GAMMA, "optimizer.lr": LR, "loss.A": A},
        sampler={"type": "random", "configurations": 1005},
        seeds=[0],
    )
    points = [{**point, "loss.A": -4.0} for point in random_points(1005)]
    result = finished(
        book_of(spec, points, lambda t: 30 - abs(t.config.loss.gamma - 6) if not t.baseline else 20), tmp_path
    )
    started = time.perf_counter()
    report.write_report(result)
    assert time.perf_counter() - started < 60  # 6 s on two idle cores
    text = (tmp_path / "report.html").read_text()
    page = check_page(text)
    assert page.tags.count("tr") > 1000
    assert "5 more configurations are in" in " ".join("".join(page.words).split())
    assert len(text) < 5e6
    assert len((tmp_path / "table.txt").read_text().splitlines()) < 60


# the files


def test_write_leaves_all_files_and_says_where(tmp_path):
    result = small(tmp_path)
    assert report.write_report(result) == [tmp_path / name for name in FILES]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(FILES), "and nothing else"
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
    assert "* gamma = 5" in (tmp_path / "table.txt").read_text()
    assert len(json.loads((tmp_path / "results.json").read_text())["trials"]) == 8
    assert len((tmp_path / "table.csv").read_text().splitlines()) == 9
    check_page((tmp_path / "report.html").read_text())


def test_best_yaml_is_the_best_configuration_and_says_how_to_train_it(tmp_path):
    folder = tmp_path / "a folder"
    folder.mkdir()
    report.write_report(small(folder))
    text = (folder / "best.yaml").read_text()
    assert documents.load(TrainConfig, folder / "best.yaml") == study_spec().configure({"loss.gamma": 5.0}, seed=0)
    assert text.splitlines()[:2] == [
        "# Best of study s-1 by mean val/segm_AP over seeds 0, 1: gamma = 5",
        f"# Train it with: lncis train '{folder}/best.yaml' --out '{folder}/best'",
    ]


def test_best_yaml_names_the_noise_draws():
    text = table.best_yaml(crossed(np.full((1, 2, 2), 30.0)))
    assert "over seeds 0, 1 and noise draws 10, 11: batch_size = 4" in text
    assert "  seed: 10" in text


def test_a_study_without_a_finished_configuration_leaves_all_but_the_best(tmp_path):
    book = Book(study_spec())
    (trial, _) = book.spec.trials(1, {"loss.gamma": 4.0})
    book.train(trial, 30.0)
    with pytest.raises(StudyError, match="no configuration of study s-1 finished"):
        report.write_report(book.result(tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(set(FILES) - {"best.yaml"})
    assert "unfinished: 1 of 8 trials ended" in (tmp_path / "table.txt").read_text()


def test_text_of_users_is_neither_a_formula_nor_a_command_to_a_terminal():
    names = ["=cmd|'/c calc'!A0", "+1", "-x", "@SUM(A1)", "\x1b[2J\x1b]0;title\x07", "line\r\nbreak"]
    result = small(baselines=dict.fromkeys(names, CE))
    text = table.trials_csv(result)
    cells = {row["baseline"] for row in csv.DictReader(io.StringIO(text, newline=""))}
    assert {f"'{name}" for name in names[:4]} <= cells
    assert all(character.isprintable() for line in text.split("\n") for character in line)
    assert not any(cell.startswith(("=", "+", "-", "@")) for cell in cells)
    written = report._text(result)
    assert "=cmd" in written
    assert all(character.isprintable() for line in written.split("\n") for character in line)
