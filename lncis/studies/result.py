"""What a study found: the trials, and what they say about the configurations."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from lncis.errors import StudyError
from lncis.metrics import Record
from lncis.studies.spec import StudySpec, Trial
from lncis.studies.stages import Sharing


@dataclass(frozen=True, kw_only=True)
class TrialResult:
    """One trial after its end."""

    trial: Trial
    records: list[Record]
    directory: Path
    """Holds the checkpoint after the last epoch."""
    reason: str = ""
    """Why it failed; empty if it did not."""

    def last(self, metric: str) -> float:
        """Return a metric after the last epoch; NaN if the trial did not get there."""
        finished = not self.reason and self.records and self.records[-1]["epoch"] == self.trial.config.schedule.epochs
        return self.records[-1].get(metric, math.nan) if finished else math.nan


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A mean over seeds and the half-width of its 95 % confidence interval (Student's t); NaN with one seed."""

    mean: float
    half_width: float

    def __format__(self, sign: str) -> str:
        spread = "" if math.isnan(self.half_width) else f" ± {self.half_width:.1f}"
        return "-" if math.isnan(self.mean) else f"{self.mean:{sign}.1f}{spread}"


def interval(values: list[float]) -> Interval:
    """Return the interval of finite values; NaN for none."""
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return Interval(mean=math.nan, half_width=math.nan)
    if len(finite) == 1:
        return Interval(mean=finite[0], half_width=math.nan)
    error = float(np.std(finite, ddof=1)) / math.sqrt(len(finite))
    return Interval(mean=float(np.mean(finite)), half_width=float(stats.t.ppf(0.975, len(finite) - 1)) * error)


@dataclass(frozen=True, kw_only=True)
class ConfigurationResult:
    """The trials of one configuration, one for each seed, by seed."""

    trials: list[TrialResult]

    @property
    def trial(self) -> Trial:
        """One of its trials; they differ in their seed alone."""
        return self.trials[0].trial

    def over_seeds(self, metric: str) -> Interval:
        """Return the mean of a metric over the trials that finished, and its interval."""
        return interval([trial.last(metric) for trial in self.trials])


def paired_difference(one: ConfigurationResult, other: ConfigurationResult, metric: str) -> Interval:
    """Return `one` minus `other`, seed by seed: what both owe to a seed, and to the stage they share, cancels."""
    pairs = zip(one.trials, other.trials, strict=True)
    return interval([a.last(metric) - b.last(metric) for a, b in pairs])


@dataclass(frozen=True, kw_only=True)
class StudyResult:
    """A finished study."""

    study_id: str
    spec: StudySpec
    directory: Path
    trials: list[TrialResult]
    sharing: Sharing
    seconds: float
    mlflow_uri: str

    @property
    def configurations(self) -> list[ConfigurationResult]:
        """The configurations in the order they were tried, baselines first."""
        groups: dict[int, list[TrialResult]] = {}
        for result in sorted(self.trials, key=lambda r: (r.trial.configuration, r.trial.seed)):
            groups.setdefault(result.trial.configuration, []).append(result)
        return [ConfigurationResult(trials=group) for group in groups.values()]

    @property
    def searched(self) -> list[ConfigurationResult]:
        """The configurations that may be selected, those that finished for every seed."""
        metric = self.spec.objective.metric
        return [
            c
            for c in self.configurations
            if c.trial.baseline is None and sum(math.isfinite(t.last(metric)) for t in c.trials) == len(self.spec.seeds)
        ]

    @property
    def best(self) -> ConfigurationResult:
        """The configuration with the best mean objective; StudyError if none finished."""
        if not self.searched:
            reasons = sorted({t.reason for t in self.trials if t.reason}) or ["it was stopped"]
            raise StudyError(f"no configuration of study {self.study_id} finished: {'; '.join(reasons)}")
        sign = 1 if self.spec.objective.mode == "max" else -1
        return max(self.searched, key=lambda c: sign * c.over_seeds(self.spec.objective.metric).mean)

    @property
    def as_good_as_best(self) -> list[ConfigurationResult]:
        """The others that the seeds cannot tell from the best: the 95 % interval of the paired difference holds 0.

        With one seed nothing can be told apart, so it is all of them.
        """
        metric, best = self.spec.objective.metric, self.best

        def told_apart(other: ConfigurationResult) -> bool:
            difference = paired_difference(best, other, metric)
            return abs(difference.mean) > difference.half_width

        others = [c for c in self.searched if c.trial.configuration != best.trial.configuration]
        return [other for other in others if not told_apart(other)]


def summary(result: StudyResult) -> dict[str, Any]:
    """Return the result as plain data that strict JSON can hold, for results.json; what is not finite is null."""
    plain: dict[str, Any] = {
        "study_id": result.study_id,
        "name": result.spec.name,
        "seconds": round(result.seconds, 1),
        "epochs_asked": result.sharing.asked,
        "epochs_trained": result.sharing.trained,
        "trials": [
            {
                "name": t.trial.name,
                "label": t.trial.label,
                "overrides": t.trial.overrides,
                "seed": t.trial.seed,
                "failed": t.reason or None,
                "checkpoint": str(t.directory),
                "records": t.records,
            }
            for t in result.trials
        ],
    }
    finite: dict[str, Any] = _finite(plain)
    return finite


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
