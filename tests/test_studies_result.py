import json
import math
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import yaml
from made_up_study import BOXES, CE, FAILED, FINISHED, METRIC, PRUNED, TEST, Book, study_spec
from scipy import stats

from lncis import documents
from lncis.config import TrainConfig
from lncis.errors import StudyError
from lncis.studies.record.journal import (
    End,
    TrialEnded,
    TrialRetried,
    TrialStarted,
)
from lncis.studies.report import table
from lncis.studies.report.intervals import interval
from lncis.studies.report.result import StudyResult, TrialResult, paired_difference, result_document


def study(*values: list[float], failed: tuple[int, int] | None = None, **fields) -> StudyResult:
    """The baseline's values by seed, then those of each configuration; `failed` is one's (configuration, seed)."""
    spec = study_spec(seeds=list(range(len(values[0]))), **fields)
    book = Book(spec)
    configurations = [("ce", spec.baselines["ce"]), *((None, overrides) for overrides in spec.grid)]
    trials = [
        (trial, value)
        for i, ((name, overrides), of_seeds) in enumerate(zip(configurations, values, strict=False))
        for trial, value in zip(spec.trials(i, overrides, baseline=name), of_seeds, strict=True)
    ]
    for trial, value in trials[::-1]:  # in whatever order they begin and end
        book.train(trial, value)
        if (trial.configuration, trial.seed) == failed:
            book.events.pop()
            book.end(trial, FAILED, "the loss is nan")
    book.end_session()
    return book.result()


def gamma(configuration) -> float:
    return configuration.trial.overrides["loss.gamma"]


def test_interval_by_hand():
    # two values 2 apart: standard error 1, t_0.975 with one degree of freedom is 12.706
    found = interval([30.0, 32.0])
    assert (found.mean, found.half_width) == pytest.approx((31, 12.7062), abs=1e-4)
    assert f"{found}" == "31.0 ± 12.7"


def test_interval_of_one_value_has_no_width():
    found = interval([30.0])
    assert found.mean == 30
    assert math.isnan(found.half_width)
    assert f"{found}" == "30.0"


@pytest.mark.parametrize("values", [[], [math.nan], [math.inf, math.nan]])
def test_interval_of_nothing_is_nan(values):
    assert math.isnan(interval(values).mean)
    assert f"{interval(values)}" == "-"


def test_interval_leaves_out_what_is_not_finite():
    assert interval([30.0, math.nan, 32.0]) == interval([30.0, 32.0])


def test_last_is_the_value_after_the_last_epoch_of_a_trial_that_finished():
    (trial,) = study_spec(seeds=[0]).trials(1, {"loss.gamma": 4.0})
    records = [{"epoch": 1.0, METRIC: 99.0}, {"epoch": 2.0, METRIC: 31.0}]

    def ended(end: End | None, records=records) -> TrialResult:
        return TrialResult(trial=trial, records=records, directory=Path(), end=end)

    assert ended(FINISHED).last(METRIC) == 31
    assert math.isnan(ended(FINISHED).last("val/unknown"))
    assert all(math.isnan(ended(end).last(METRIC)) for end in (FAILED, PRUNED, None))
    assert math.isnan(ended(None, []).last(METRIC))


def test_configurations_are_in_order_with_their_trials_by_seed():
    found = study([20, 21], [30, 31], [40, 41], [35, 36]).configurations
    assert [c.trial.label for c in found] == ["ce", "gamma = 4", "gamma = 5", "gamma = 6"]
    assert all([t.trial.seed for t in c.trials] == [0, 1] for c in found)
    assert [c.over_seeds(METRIC).mean for c in found] == [20.5, 30.5, 40.5, 35.5]
    assert found[0].over_seeds("test/segm_AP").mean == 21.5


@pytest.mark.parametrize(("mode", "expected"), [("max", 5.0), ("min", 4.0)])
def test_best_is_by_mean_over_seeds(mode, expected):
    # gamma 6 has both the highest and the lowest single value
    assert gamma(study([90, 1], [30, 31], [40, 41], [15, 60], objective={"mode": mode}).best) == expected


def test_baseline_is_never_best():
    result = study([90, 91], [30, 31])
    assert [gamma(c) for c in result.searched] == [4.0]
    assert gamma(result.best) == 4.0


@pytest.mark.parametrize("mode", ["max", "min"])
def test_configuration_with_a_failed_trial_is_not_selected(mode):
    result = study([20, 21], [30, 31], [99, 99] if mode == "max" else [1, 1], objective={"mode": mode}, failed=(2, 1))
    assert [gamma(c) for c in result.searched] == [4.0]
    assert gamma(result.best) == 4.0
    assert result.as_good_as_best == []


def test_nan_objective_is_not_selected():
    assert gamma(study([20, 21], [30, 31], [99, math.nan]).best) == 4.0


def test_no_finished_configuration_is_an_error_with_the_reasons():
    with pytest.raises(StudyError, match="no configuration of study s-1 finished: the loss is nan"):
        _ = study([20, 21], [30, 31], failed=(1, 0)).best


def test_as_good_as_best_by_hand():
    # differences from the best, paired by seed: (8, 8.2, 7.8) has mean 8 and half-width 4.303 * 0.2 / sqrt(3) = 0.497;
    # (0.5, -1, 2) has mean 0.5 and half-width 4.303 * 1.5 / sqrt(3) = 3.73. Pooled: residuals of the differences (0, 8,
    # .5) + (0, .2, -1.5) (0, -.2, 1.5) have the mean square (3 * 0.0267 / 3 + ...) = 0.605, so a mean is off by
    # sqrt(0.605 / 3) = 0.449, and the range of three at 4 degrees of freedom is 5.04 of that: 2.26
    best = [40.0, 45.0, 50.0]
    result = study([0, 0, 0], best, [32.0, 36.8, 42.2], [39.5, 46.0, 48.0])
    assert gamma(result.best) == 4.0
    assert [gamma(c) for c in result.as_good_as_best] == [6.0]
    # 2.2 is told apart by its own interval, and not by that of the family
    result = study([0, 0, 0], best, [37.8, 42.6, 48.0], [39.5, 46.0, 48.0])
    assert paired_difference(result.best, result.searched[1], METRIC).half_width < 2.2
    assert [gamma(c) for c in result.as_good_as_best] == [5.0, 6.0]


def test_as_good_as_best_pairs_by_seed_not_by_spread():
    # the seeds differ widely, the difference within each is the same: significant
    assert study([0, 0], [10.0, 90.0], [9.0, 89.0]).as_good_as_best == []


def test_as_good_as_best_in_min_mode():
    result = study([0, 0, 0], [32.0, 36.8, 42.2], [40.0, 45.0, 50.0], [32.5, 35.8, 43.0], objective={"mode": "min"})
    assert gamma(result.best) == 4.0
    assert [gamma(c) for c in result.as_good_as_best] == [6.0]


def test_with_one_seed_no_difference_is_significant():
    result = study([0], [10.0], [90.0], [50.0])
    assert gamma(result.best) == 5.0
    assert [gamma(c) for c in result.as_good_as_best] == [4.0, 6.0]


def test_equal_configurations_are_as_good():
    result = study([0, 0], [30.0, 31.0], [30.0, 31.0])
    assert gamma(result.best) == 4.0  # the first of equals
    assert [gamma(c) for c in result.as_good_as_best] == [5.0]


def test_the_lower_bound_prefers_what_is_surely_good():
    # means 42 and 41; half-widths 12.706 * 4 / sqrt(2) / sqrt(2) = 25.4 and 12.706 * 0.1 = 1.27
    values = [0, 0], [38.0, 46.0], [40.9, 41.1]
    assert gamma(study(*values).best) == 4.0
    assert gamma(study(*values, objective={"select": "lower_bound"}).best) == 5.0
    assert gamma(study(*values, objective={"select": "lower_bound", "mode": "min"}).best) == 5.0


def test_trials_of_one_configuration_pair_by_seed_and_noise_draw():
    spec = study_spec(seeds=[0, 1], noise_seeds=[7, 8])
    book = Book(spec)
    for number, overrides in enumerate(spec.grid[:2], start=1):
        for trial in reversed(spec.trials(number, overrides)):
            book.train(trial, 10 * trial.seed + trial.noise_seed + (3 if number == 2 else 0))
    one, other = book.result().configurations
    assert [(t.trial.seed, t.trial.noise_seed) for t in one.trials] == [(0, 7), (1, 7), (0, 8), (1, 8)]
    difference = paired_difference(other, one, METRIC)
    assert (difference.mean, difference.half_width) == pytest.approx((3, 0))


def test_trials_of_one_configuration_pair_by_seed_and_fold_and_the_best_trains_on_all():
    spec = study_spec(seeds=[0, 1], folds=3)
    book = Book(spec)
    of_fold = {0: 0.0, 1: 40.0, 2: -20.0}
    for number, overrides in enumerate(spec.grid[:2], start=1):
        for trial in reversed(spec.trials(number, overrides)):
            book.train(trial, 50 + trial.seed + of_fold[trial.fold.number] + (3 if number == 2 else 0))
    result = book.result()
    one, other = result.configurations
    assert [(t.trial.seed, t.trial.fold.number) for t in one.trials] == [(s, k) for s in (0, 1) for k in (0, 1, 2)]
    difference = paired_difference(other, one, METRIC)
    assert (difference.mean, difference.half_width, difference.number) == pytest.approx((3, 0, 6), abs=1e-9)
    found = one.over_seeds(METRIC)
    assert found.number == 6
    values = [t.last(METRIC) for t in one.trials]
    assert found.half_width == pytest.approx(interval(values).half_width * math.sqrt((1 / 6 + 1 / 2) / (1 / 6)))
    assert result.best.trial.overrides == other.trial.overrides
    assert result.as_good_as_best == [], "what a fold does to both cancels"
    (row, *_) = result_document(result)["trials"]
    assert row["fold"] == 2
    text = table.best_yaml(result)
    assert "over seeds 0, 1, without each of 3 folds; this one trains on all images" in text
    assert documents.parse(TrainConfig, yaml.safe_load(text), source="best.yaml").fold is None


def goals_study(points: np.ndarray, modes: tuple[str, str]) -> StudyResult:
    spec = study_spec(
        search={"batch_size": {"type": "int", "low": 1, "high": 1000}},
        sampler={"type": "random", "configurations": len(points)},
        seeds=[0],
        objective={"metric": METRIC, "mode": modes[0]},
        secondary_objectives=[{"metric": BOXES, "mode": modes[1]}],
    )
    book = Book(spec)
    for number, (masks, boxes) in enumerate(points.tolist(), start=1):
        for trial in spec.trials(number, {"batch_size": number}):
            book.train(trial, masks, **{BOXES: boxes})
    return book.result()


@pytest.mark.parametrize("modes", list(product(["max", "min"], repeat=2)))
def test_pareto_front_is_what_comparing_all_pairs_gives(modes):
    points = np.random.default_rng(3).integers(1, 12, size=(40, 2)).astype(float)  # with equal ones
    signs = [1 if mode == "max" else -1 for mode in modes]

    def beaten(own, other) -> bool:
        gains = [sign * (b - a) for sign, a, b in zip(signs, own, other, strict=True)]
        return min(gains) >= 0 and max(gains) > 0

    front = [n for n, own in enumerate(points, start=1) if not any(beaten(own, other) for other in points)]
    assert [c.trial.configuration for c in goals_study(points, modes).pareto_front] == front


def test_pareto_front_of_nothing_is_empty():
    assert study([1, 1], [2, 2], failed=(1, 0), secondary_objectives=[{"metric": BOXES}]).pareto_front == []


def test_rank_agreement_is_scipys_on_the_means():
    points = np.random.default_rng(1).normal(40, 3, size=(12, 2))
    spec = study_spec(
        search={"batch_size": {"type": "int", "low": 1, "high": 99}}, sampler={"type": "random", "configurations": 12}
    )
    book = Book(spec)
    for number, (val, test) in enumerate(points, start=1):
        for trial in spec.trials(number, {"batch_size": number}):
            book.train(trial, val + 2 * trial.seed, **{TEST: test - trial.seed})
    result = book.result()
    pairs = list(product(range(12), repeat=2))
    order = sum(np.sign((points[i] - points[j]).prod()) for i, j in pairs if i < j)
    found = result.rank_agreement
    assert found.tau == pytest.approx(order / 66)
    assert found.tau == pytest.approx(stats.kendalltau(points[:, 0], points[:, 1]).statistic)
    assert found.low < found.tau < found.high


def test_rank_agreement_is_that_of_the_objective():
    spec = study_spec(
        search={"batch_size": {"type": "int", "low": 1, "high": 99}},
        sampler={"type": "random", "configurations": 7},
        objective={"metric": BOXES},
    )
    book = Book(spec)
    for number in range(1, 8):
        for trial in spec.trials(number, {"batch_size": number}):
            book.train(trial, 30.0 - number, **{BOXES: 30.0 + number, "test/bbox_AP": 40.0 - number})
    assert book.result().rank_agreement.tau == -1  # of masks it would be 1


def test_rank_agreement_of_fewer_than_six_configurations_says_nothing():
    assert study([1, 1], [2, 2], [3, 3], [4, 4]).rank_agreement is None


def test_intervals_over_noise_draws_are_not_over_trainings():
    spec = study_spec(seeds=[0, 1, 2], noise_seeds=[7, 8, 9], baselines={"clean": {"noise": {"type": "none"}}})
    book = Book(spec)
    for trial in [*spec.trials(0, spec.baselines["clean"], baseline="clean"), *spec.trials(1, spec.grid[0])]:
        book.train(trial, 30.0 + trial.seed + (3 * (trial.noise_seed - 8) if trial.baseline is None else 0))
    clean, one = book.result().configurations
    values = [t.last(METRIC) for t in one.trials]
    assert one.over_seeds(METRIC) == interval(values, [t.trial.replicate for t in one.trials])
    assert one.over_seeds(METRIC).half_width > 2 * interval(values).half_width
    # without noise the draws are copies: three trainings, not nine
    assert clean.over_seeds(METRIC).half_width == pytest.approx(interval([30.0, 31.0, 32.0]).half_width)
    # the difference is -3 0 3 by draw, whatever the seed
    difference = paired_difference(one, clean, METRIC)
    assert (difference.mean, difference.half_width) == pytest.approx((0, interval([-3.0, 0.0, 3.0]).half_width))


def test_a_missing_pair_is_counted_out():
    result = study([20, 21, 22], [30, 31, 32], failed=(0, 1))
    ce, one = result.configurations
    assert paired_difference(one, ce, METRIC).number == 2


def test_realised_noise_is_read_from_the_stages(tmp_path):
    spec = study_spec(noise_seeds=[7, 8], baselines={"clean": {"noise": {"type": "none"}}})
    book = Book(spec)
    for trial in [*spec.trials(0, spec.baselines["clean"], baseline="clean"), *spec.trials(1, spec.grid[0])]:
        book.train(trial, 30.0)
        stage = tmp_path / "stages" / f"two-{trial.name}"
        stage.mkdir(parents=True)
        rate = 0.0 if trial.baseline else 0.3 + trial.noise_seed / 100
        (stage / "noise.json").write_text(json.dumps({"train": {"realised_rate": rate}}))
    assert book.result(tmp_path).realised_noise == {7: 0.37, 8: 0.38}
    (tmp_path / "stages" / "two-0001-seed0-noise7" / "noise.json").write_text("{")
    (tmp_path / "stages" / "two-0001-seed1-noise7" / "noise.json").unlink()
    assert book.result(tmp_path).realised_noise == {8: 0.38}
    assert book.result(tmp_path / "nowhere").realised_noise == {}


def test_a_journal_that_stops_anywhere_gives_a_result():
    whole = study([20, 21], [30, 31], failed=(1, 0))
    book = Book(whole.spec)
    for trial in (t.trial for t in whole.trials):
        book.train(trial, 30.0)
    events = list(book.events)
    for number in range(len(events) + 1):
        book.events = events[:number]
        result = book.result()
        assert sum(t.end is not None for t in result.trials) == sum(isinstance(e, TrialEnded) for e in book.events)
        assert result.cost.requested == result.cost.trained + result.cost.shared + result.cost.skipped
        json.dumps(result_document(result), allow_nan=False)


def test_cost_of_sharing_pruning_and_failure_by_hand():
    spec = study_spec(seeds=[0], resources={"num_workers": 2}, baselines={"ce": CE, "off": {"loss.gamma": 90.0}})
    ce, off, one, two, three = (
        spec.trials(number, overrides, baseline=name)[0]
        for number, (name, overrides) in enumerate([*spec.baselines.items(), *((None, point) for point in spec.grid)])
    )
    book = Book(spec)
    book.train(ce, 20)  # trains 4
    book.train(one, 30)  # shares 2, trains 2
    book.train(two, 30, until=3)  # shares 2, trains 1, is skipped 1
    book.start(three)  # shares 2, trains 1 in vain, is skipped 1
    for epoch in (1, 2, 3):
        book.epoch(three, epoch)
    book.end(three, FAILED, "out of memory")
    book.start(off)  # has come to 1 of 4, which it shares
    book.epoch(off, 1)
    book.end_session(lost=7.0)
    cost = book.result().cost
    assert (cost.requested, cost.trained, cost.shared, cost.reused, cost.skipped) == (20, 8, 7, 0, 5)
    assert cost.wasted == 1
    # 15 epochs of 10 s for 2 worker groups of 2 workers, of which 8 epochs of 8 s were trained by 2 workers
    assert (cost.seconds, cost.held_seconds, cost.training_seconds) == (150, 600, 128)
    assert cost.lost_seconds == 14


def test_cost_of_stages_from_earlier_studies_by_hand():
    spec = study_spec(seeds=[0], baselines={})
    one, two, three = (spec.trials(number, point)[0] for number, point in enumerate(spec.grid))
    book = Book(spec)
    for trial in (one, two, three):
        book.train(trial, 30)
    at = [number for number, event in enumerate(book.events) if isinstance(event, TrialStarted)]
    keys = list(book.events[at[0]].stages)
    book.events[at[0]].reused.append(keys[0])  # stage 1: two epochs, shared by the two others
    book.events[at[2]].reused.extend(book.events[at[2]].stages)  # the whole training
    cost = book.result().cost
    assert (cost.requested, cost.trained, cost.reused, cost.shared, cost.skipped) == (12, 4, 4, 4, 0)
    assert cost.training_seconds == 4 * 8


def test_a_retried_trial_is_neither_failed_nor_wasted():
    spec = study_spec(seeds=[0], baselines={})
    (trial,) = spec.trials(0, spec.grid[0])
    book = Book(spec)
    book.start(trial)
    book.epoch(trial, 1)
    book.end(trial, FAILED, "out of memory")
    book.end_session()
    assert book.result().cost.wasted == 1
    book.start_session()
    book.events.append(TrialRetried(time=book.clock, trial=trial.name))
    assert book.result().trials[0].end is None
    for epoch in (2, 3, 4):
        book.epoch(trial, epoch, **{METRIC: 30.0})
    book.end(trial)
    book.end_session()
    result = book.result()
    assert (result.trials[0].end, result.trials[0].reason) == (FINISHED, "")
    assert (result.cost.requested, result.cost.trained, result.cost.wasted) == (4, 4, 0)


def test_cost_of_a_killed_session_is_what_its_worker_groups_had_not_reported():
    spec = study_spec(seeds=[0], baselines={}, resources={"num_workers": 2})
    one, two, three = (spec.trials(number, point)[0] for number, point in enumerate(spec.grid))
    book = Book(spec)
    for trial in (one, two, three):
        book.start(trial)
    book.epoch(one, 1)  # reported at 10 s
    book.epoch(two, 1)  # at 20 s
    book.epoch(three, 1)  # at 30 s; then the study was killed
    book.clock = 1000.0
    book.start_session()
    book.clock = 1010.0
    book.end_session()
    cost = book.result().cost
    assert (cost.seconds, cost.held_seconds) == (40, 40 * 2 * 2)
    # two worker groups can have been at work on two of three: at least 0 s and 10 s, for two workers each
    assert cost.lost_seconds == 20


def test_the_document_says_what_the_seeds_say_of_the_best():
    result = study([20, 21], [30, 31.5], [30.5, 31])
    document = json.loads(json.dumps(result_document(result), allow_nan=False))
    assert document["best"] == {"loss.gamma": 4.0}
    assert document["as_good_as_best"] == [{"loss.gamma": 5.0}]
    chances = [c["probability_of_best"] for c in document["configurations"]]
    assert chances[0] is None and sum(chances[1:]) == pytest.approx(1)
    assert document["optimism_of_best"] == pytest.approx(result.selection.optimism)


def test_the_document_is_json_and_complete():
    result = study([20, 21], [30, 31], failed=(1, 1))
    document = json.loads(json.dumps(result_document(result), allow_nan=False))
    assert (document["study_id"], document["name"], document["best"]) == ("s-1", "s", None)
    assert (document["cost"]["requested"], document["cost"]["trained"]) == (16, 12)
    assert document["rank_agreement_val_test"] is None
    assert (document["as_good_as_best"], document["optimism_of_best"], document["realised_noise"]) == ([], None, [])
    assert [c["probability_of_best"] for c in document["configurations"]] == [None, None]
    assert sorted(t["name"] for t in document["trials"]) == ["0000-seed0", "0000-seed1", "0001-seed0", "0001-seed1"]
    by_name = {t["name"]: t for t in document["trials"]}
    assert (by_name["0001-seed1"]["end"], by_name["0001-seed1"]["reason"]) == ("failed", "the loss is nan")
    assert (by_name["0001-seed0"]["end"], by_name["0001-seed0"]["reason"]) == ("finished", None)
    assert by_name["0001-seed0"]["overrides"] == {"loss.gamma": 4.0}
    assert by_name["0001-seed0"]["records"][-1][METRIC] == 30
    assert by_name["0000-seed0"]["label"] == "ce"
    assert by_name["0000-seed0"]["checkpoint"] == "runs/stages/two-0000-seed0"
