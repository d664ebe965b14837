"""Statistics beyond means and intervals: the importance of parameters, and the sources of variance."""

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import optuna  # whose `importance` loads scikit-learn when it is first used
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from lncis.studies.report.result import ConfigurationResult, StudyResult
from lncis.studies.search import distribution, empty_study
from lncis.studies.spec import StudySpec

FEWEST = 4
"""With fewer configurations no importance is computed."""

FANOVA_MOST = 100
"""With more configurations fANOVA is too slow (12 s for 1000)."""


def ranked(result: StudyResult) -> list[ConfigurationResult]:
    """Return all but the baselines: those that may be selected, best first; then the others, by epochs trained."""
    done = {c.trial.configuration for c in result.searched}
    others = [c for c in result.configurations if c.trial.baseline is None and c.trial.configuration not in done]
    best_first = sorted(result.searched, key=lambda c: c.score(result.spec.objective), reverse=True)
    return [*best_first, *sorted(others, key=_progress, reverse=True)]


def _progress(configuration: ConfigurationResult) -> float:
    return sum(t.records[-1]["epoch"] for t in configuration.trials if t.records)


def importance(result: StudyResult) -> dict[str, float]:
    """Return the importance of each searched parameter for the mean objective, the largest first; they sum to 1.

    Empty where it is not defined: fewer than 4 configurations finished, fewer than two parameters vary, or all means
    are equal. `importance_method` names the method.
    """
    metric = result.spec.objective.metric
    points = [(c.trial.overrides, c.over_seeds(metric).mean) for c in result.searched]
    if len(points) < FEWEST or len({mean for _, mean in points}) == 1:
        return {}
    values = {path: {overrides.get(path) for overrides, _ in points} for path in result.spec.search}
    varying = [path for path, found in values.items() if len(found) > 1]
    if len(varying) < 2:
        return {}
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    spec = replace(result.spec, secondary_objectives=[])  # importance is for one objective
    study, draw = empty_study(spec), np.random.default_rng(0)
    study.add_trials([_observed(spec, overrides, mean, draw) for overrides, mean in points])
    try:
        found = optuna.importance.get_param_importances(study, evaluator=_evaluator(result))
    except RuntimeError:  # fANOVA, where all trees are flat
        return {}
    shares = {path: float(share) for path, share in found.items() if path in varying}
    total = sum(shares.values())
    if not math.isfinite(total) or total <= 0:
        return {}
    return {path: share / total for path, share in sorted(shares.items(), key=lambda item: -item[1])}


def _observed(
    spec: StudySpec, overrides: dict[str, Any], mean: float, draw: np.random.Generator
) -> optuna.trial.FrozenTrial:
    """Return a configuration as a finished trial of Optuna, in a form that its random forests accept.

    They ignore parameters that some trial lacks. Where a parameter is not searched it has no effect, so it gets a
    random value. They treat a log range as linear, which gives nine tenths of it to the last decade; here it is the
    range of the logarithm.
    """
    distributions: dict[str, BaseDistribution] = {}
    values: dict[str, Any] = {}
    for path, parameter in spec.search.items():
        found = distribution(parameter)
        if isinstance(found, FloatDistribution | IntDistribution):
            scale = math.log if found.log else float
            found = FloatDistribution(scale(found.low), scale(found.high))
            values[path] = scale(overrides[path]) if path in overrides else draw.uniform(found.low, found.high)
        elif isinstance(found, CategoricalDistribution):
            values[path] = overrides[path] if path in overrides else found.choices[draw.integers(len(found.choices))]
        distributions[path] = found
    return optuna.trial.create_trial(params=values, distributions=distributions, value=mean)


def importance_method(result: StudyResult) -> str:
    """Return the name of the method that `importance` uses."""
    return "fANOVA" if len(result.searched) <= FANOVA_MOST else "mean decrease in impurity"


def _evaluator(result: StudyResult) -> optuna.importance.BaseImportanceEvaluator:
    """Return fANOVA, or a random forest's mean decrease in impurity where fANOVA is too slow.

    Not PED-ANOVA, Optuna's default. From 12 simulated configurations it found the most important parameter in 20 of 25
    draws, fANOVA in all 25. It compares the best tenth with the rest, and here a tenth is one or two configurations.
    """
    if importance_method(result) == "fANOVA":
        return optuna.importance.FanovaImportanceEvaluator(seed=0)
    return optuna.importance.MeanDecreaseImpurityImportanceEvaluator(seed=0)


@dataclass(frozen=True, kw_only=True)
class VarianceSplit:
    """Where the variance between the trainings of one configuration comes from; the shares sum to 1."""

    noise_draw: float
    """Share of the noise draw: which labels were flipped."""
    training_seed: float
    """Share of the training seed: initialisation, data order, sampling."""
    rest: float
    """Share of their interaction and of all else; with one training for each pair the two cannot be separated."""
    deviation: float
    """Standard deviation of one training, in the unit of the metric."""


def variance_split(result: StudyResult, metric: str) -> VarianceSplit | None:
    """Return how noise draw and training seed share the variance of a metric; None without two of each, or without any.

    A two-way random-effects analysis of variance with one observation a cell (Montgomery, Design and Analysis of
    Experiments, chapter 13). For each searched configuration, with y[i, j] its metric under noise draw i of n and
    training seed j of t (the mean of its folds), and y. for means,

        MS_draw = t sum_i (y[i, .] - y[., .])² / (n - 1),    E MS_draw = rest + t draw
        MS_seed = n sum_j (y[., j] - y[., .])² / (t - 1),    E MS_seed = rest + n seed
        MS_rest = sum_ij (y[i, j] - y[i, .] - y[., j] + y[., .])² / ((n - 1)(t - 1)),    E MS_rest = rest.

    The mean squares are averaged over the configurations and solved for the components; a negative one becomes 0. (Were
    each configuration's components cut at 0 before they are averaged, small ones would come out too large.)
    """
    n, t = len(result.spec.noise_seeds), len(result.spec.seeds)
    if n < 2 or t < 2 or not result.searched:
        return None
    each = np.array([[trial.last(metric) for trial in c.trials] for c in result.searched])
    y = each.reshape(-1, n, t, result.spec.folds or 1).mean(axis=3)
    y = y[np.isfinite(y).all(axis=(1, 2))]
    if not len(y):
        return None
    mean, of_draw, of_seed = (y.mean(axis=axes, keepdims=True) for axes in ((1, 2), 2, 1))
    ms_draw = t * ((of_draw - mean) ** 2).sum() / (n - 1) / len(y)
    ms_seed = n * ((of_seed - mean) ** 2).sum() / (t - 1) / len(y)
    ms_rest = ((y - of_draw - of_seed + mean) ** 2).sum() / ((n - 1) * (t - 1)) / len(y)
    components = np.array([max(0.0, (ms_draw - ms_rest) / t), max(0.0, (ms_seed - ms_rest) / n), ms_rest])
    total = float(components.sum())
    if total <= 0:
        return None
    draw, seed, rest = (components / total).tolist()
    return VarianceSplit(noise_draw=draw, training_seed=seed, rest=rest, deviation=math.sqrt(total))
