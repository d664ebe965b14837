import json
import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from lncis.config import Schedule, TrainConfig
from lncis.errors import StudyError
from lncis.studies.result import StudyResult, TrialResult, interval, summary
from lncis.studies.spec import Objective, StudySpec, Trial
from lncis.studies.stages import Sharing

METRIC = "val/segm_AP"
SPEC = StudySpec(
    name="s",
    base=TrainConfig(schedule=Schedule(epochs=2)),
    search={"loss.gamma": {"type": "categorical", "choices": [4.0, 5.0, 6.0]}},
    baselines={"ce": {"loss": {"name": "cross_entropy"}}},
    seeds=[0, 1],
)


def trial_result(trial: Trial, value: float, reason: str = "") -> TrialResult:
    records = [{"epoch": 1.0, METRIC: 99.0}, {"epoch": 2.0, METRIC: value, "test/segm_AP": value + 1}]
    return TrialResult(trial=trial, records=records, directory=Path("stages") / trial.name, reason=reason)


def study(*values: list[float], mode: str = "max", failed: tuple[int, int] | None = None) -> StudyResult:
    """The baseline's values by seed, then those of each configuration; `failed` is one's (configuration, seed)."""
    spec = StudySpec(
        name=SPEC.name,
        base=SPEC.base,
        search=SPEC.search,
        baselines=SPEC.baselines,
        seeds=list(range(len(values[0]))),
        objective=Objective(mode=mode),
    )
    configurations = [("ce", spec.baselines["ce"]), *((None, overrides) for overrides in spec.grid)]
    results = [
        trial_result(trial, value, "the loss is nan" if (i, trial.seed) == failed else "")
        for i, ((name, overrides), of_seeds) in enumerate(zip(configurations, values, strict=False))
        for trial, value in zip(spec.trials(i, overrides, baseline=name), of_seeds, strict=True)
    ]
    return StudyResult(
        study_id="s-1",
        spec=spec,
        directory=Path("runs"),
        trials=results[::-1],  # in whatever order they end
        sharing=Sharing(asked=16, trained=10),
        seconds=12.345,
        mlflow_uri="sqlite://",
    )


def gamma(configuration) -> float:
    return configuration.trial.overrides["loss.gamma"]


@pytest.mark.parametrize("n", [2, 3, 10])
def test_interval_is_scipys(n):
    values = list(np.random.default_rng(n).normal(40, 3, size=n))
    low, high = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    found = interval(values)
    assert found.mean == pytest.approx((low + high) / 2)
    assert found.half_width == pytest.approx((high - low) / 2)


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


def test_last_is_the_value_after_the_last_epoch():
    (trial,) = SPEC.trials(1, {"loss.gamma": 4.0})[:1]
    assert trial_result(trial, 31.0).last(METRIC) == 31
    assert math.isnan(trial_result(trial, 31.0).last("val/unknown"))
    assert math.isnan(trial_result(trial, 31.0, "out of memory").last(METRIC))
    assert math.isnan(TrialResult(trial=trial, records=[], directory=Path()).last(METRIC))


def test_configurations_are_in_order_with_their_trials_by_seed():
    found = study([20, 21], [30, 31], [40, 41], [35, 36]).configurations
    assert [c.trial.label for c in found] == ["ce", "gamma = 4", "gamma = 5", "gamma = 6"]
    assert all([t.trial.seed for t in c.trials] == [0, 1] for c in found)
    assert [c.over_seeds(METRIC).mean for c in found] == [20.5, 30.5, 40.5, 35.5]
    assert found[0].over_seeds("test/segm_AP").mean == 21.5


@pytest.mark.parametrize(("mode", "expected"), [("max", 5.0), ("min", 4.0)])
def test_best_is_by_mean_over_seeds(mode, expected):
    # gamma 6 has both the highest and the lowest single value
    assert gamma(study([90, 1], [30, 31], [40, 41], [15, 60], mode=mode).best) == expected


def test_baseline_is_never_best():
    result = study([90, 91], [30, 31])
    assert [gamma(c) for c in result.searched] == [4.0]
    assert gamma(result.best) == 4.0


@pytest.mark.parametrize("mode", ["max", "min"])
def test_configuration_with_a_failed_trial_is_not_selected(mode):
    result = study([20, 21], [30, 31], [99, 99] if mode == "max" else [1, 1], mode=mode, failed=(2, 1))
    assert [gamma(c) for c in result.searched] == [4.0]
    assert gamma(result.best) == 4.0
    assert result.as_good_as_best == []


def test_nan_objective_is_not_selected():
    assert gamma(study([20, 21], [30, 31], [99, math.nan]).best) == 4.0


def test_no_finished_configuration_is_an_error_with_the_reasons():
    with pytest.raises(StudyError, match="no configuration of study s-1 finished: the loss is nan"):
        _ = study([20, 21], [30, 31], failed=(1, 0)).best


def test_as_good_as_best_by_hand():
    # differences from the best, paired by seed: (4, 4.2, 3.8) has mean 4 and half-width 4.303 * 0.2 / sqrt(3) = 0.497;
    # (0.5, -1, 2) has mean 0.5 and half-width 4.303 * 1.5 / sqrt(3) = 3.73
    best = [40.0, 45.0, 50.0]
    result = study([0, 0, 0], best, [36.0, 40.8, 46.2], [39.5, 46.0, 48.0])
    assert gamma(result.best) == 4.0
    assert [gamma(c) for c in result.as_good_as_best] == [6.0]


def test_as_good_as_best_pairs_by_seed_not_by_spread():
    # the seeds differ widely, the difference within each is the same: told apart for certain
    assert study([0, 0], [10.0, 90.0], [9.0, 89.0]).as_good_as_best == []


def test_as_good_as_best_in_min_mode():
    result = study([0, 0, 0], [36.0, 40.8, 46.2], [40.0, 45.0, 50.0], [36.5, 39.8, 47.0], mode="min")
    assert gamma(result.best) == 4.0
    assert [gamma(c) for c in result.as_good_as_best] == [6.0]


def test_with_one_seed_nothing_is_told_apart():
    result = study([0], [10.0], [90.0], [50.0])
    assert gamma(result.best) == 5.0
    assert [gamma(c) for c in result.as_good_as_best] == [4.0, 6.0]


def test_equal_configurations_are_as_good():
    result = study([0, 0], [30.0, 31.0], [30.0, 31.0])
    assert gamma(result.best) == 4.0  # the first of equals
    assert [gamma(c) for c in result.as_good_as_best] == [5.0]


def test_summary_is_json_and_complete():
    result = study([20, 21], [30, 31], failed=(1, 1))
    document = json.loads(json.dumps(summary(result)))
    assert document["study_id"] == "s-1"
    assert document["name"] == "s"
    assert document["seconds"] == 12.3
    assert (document["epochs_asked"], document["epochs_trained"]) == (16, 10)
    assert sorted(t["name"] for t in document["trials"]) == ["0000-seed0", "0000-seed1", "0001-seed0", "0001-seed1"]
    by_name = {t["name"]: t for t in document["trials"]}
    assert by_name["0001-seed1"]["failed"] == "the loss is nan"
    assert by_name["0001-seed0"]["failed"] is None
    assert by_name["0001-seed0"]["overrides"] == {"loss.gamma": 4.0}
    assert by_name["0001-seed0"]["records"][-1][METRIC] == 30
    assert by_name["0000-seed0"]["label"] == "ce"
