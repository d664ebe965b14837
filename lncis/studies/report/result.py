"""What a study found: the trials, and what they say about the configurations."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np

from lncis import documents
from lncis.errors import StudyError
from lncis.metrics import Record
from lncis.studies.history import History, SessionHistory
from lncis.studies.journal import End, Event
from lncis.studies.report.cost import Cost, cost_of
from lncis.studies.spec import SelectionObjective, StudySpec, Trial
from lncis.studies.stages import STAGES


@dataclass(frozen=True, kw_only=True)
class TrialResult:
    """One trial after its end."""

    trial: Trial
    records: list[Record]
    directory: Path
    """Holds the checkpoint after the last epoch, if it was kept."""
    end: End | None
    """None while it runs."""
    reason: str = ""
    """Why it failed or was pruned; else empty."""

    def last(self, metric: str) -> float:
        """Return a metric after the last epoch; NaN if the trial did not get there."""
        return self.records[-1].get(metric, math.nan) if self.end is End.FINISHED else math.nan


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A mean over seeds and the half-width of its 95 % confidence interval (Student's t); NaN with one seed."""

    mean: float
    half_width: float

    def __format__(self, sign: str) -> str:
        """Return `30.1 ± 0.4`, or with the sign of a float's format, as in `f"{gain:+}"`: `+1.2 ± 0.3`."""
        spread = "" if math.isnan(self.half_width) else f" ± {self.half_width:.1f}"
        return "-" if math.isnan(self.mean) else f"{self.mean:{sign}.1f}{spread}"


def interval(values: Sequence[float]) -> Interval:
    """Return the interval of finite values; NaN for none."""
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return Interval(mean=math.nan, half_width=math.nan)
    if len(finite) == 1:
        return Interval(mean=finite[0], half_width=math.nan)
    error = float(np.std(finite, ddof=1)) / math.sqrt(len(finite))
    return Interval(mean=float(np.mean(finite)), half_width=_student(len(finite) - 1) * error)


def score(objective: SelectionObjective, values: Sequence[float]) -> float:
    """Return the score of a configuration from its objective with each seed; the best has the largest.

    That is the mean or its lower bound, negative where less is better; -inf without a finite value.
    """
    if objective.select == "lower_bound":
        reached = interval(values)
        mean, margin = reached.mean, reached.half_width
    else:  # of thousands of configurations an interval would take the service most of a request
        finite = [value for value in values if math.isfinite(value)]
        mean, margin = (math.fsum(finite) / len(finite) if finite else math.nan), 0.0
    reached_most = (mean if objective.mode == "max" else -mean) - margin
    return -math.inf if math.isnan(reached_most) else reached_most


@cache
def _student(degrees_of_freedom: int) -> float:
    from scipy import stats  # slow to load, and the service starts without

    return float(stats.t.ppf(0.975, degrees_of_freedom))


@dataclass(frozen=True, kw_only=True)
class ConfigurationResult:
    """The trials of one configuration, one for each replicate, in the order of the spec."""

    trials: list[TrialResult]

    @property
    def trial(self) -> Trial:
        """One of its trials; they differ in their seed alone."""
        return self.trials[0].trial

    def over_seeds(self, metric: str) -> Interval:
        """Return the mean of a metric over the trials that finished, and its interval."""
        return interval([trial.last(metric) for trial in self.trials])

    def score(self, objective: SelectionObjective) -> float:
        """Return its score; the best configuration has the largest."""
        return score(objective, [trial.last(objective.metric) for trial in self.trials])


def paired_difference(one: ConfigurationResult, other: ConfigurationResult, metric: str) -> Interval:
    """Return the interval of `one` minus `other`, seed by seed; effects of a seed and of a shared stage cancel."""
    others = {(t.trial.seed, t.trial.noise_seed): t for t in other.trials}
    pairs = [(t, others.get((t.trial.seed, t.trial.noise_seed))) for t in one.trials]
    return interval([mine.last(metric) - its.last(metric) for mine, its in pairs if its])


@dataclass(frozen=True, kw_only=True)
class StudyResult:
    """What a study has found, finished or so far."""

    study_id: str
    spec: StudySpec
    directory: Path
    trials: list[TrialResult]
    cost: Cost
    complete: bool
    """Whether all trials ended."""
    versions: dict[str, str]
    """What the sessions ran on, by package; several where they differ."""

    @cached_property
    def configurations(self) -> list[ConfigurationResult]:
        """The configurations in the order they were tried, baselines first."""
        groups: dict[int, list[TrialResult]] = {}
        place = {replicate: number for number, replicate in enumerate(self.spec.replicates)}
        for result in sorted(self.trials, key=lambda r: place[r.trial.seed, r.trial.noise_seed]):
            groups.setdefault(result.trial.configuration, []).append(result)
        return [ConfigurationResult(trials=groups[number]) for number in sorted(groups)]

    @cached_property
    def searched(self) -> list[ConfigurationResult]:
        """The configurations that may be selected, those that finished for every seed."""
        metric = self.spec.objective.metric
        return [
            c
            for c in self.configurations
            if c.trial.baseline is None
            and sum(math.isfinite(t.last(metric)) for t in c.trials) == len(self.spec.replicates)
        ]

    @cached_property
    def best(self) -> ConfigurationResult:
        """The configuration with the best mean objective, or lower bound of it; StudyError if none finished."""
        if not self.searched:
            reasons = sorted({t.reason for t in self.trials if t.reason}) or ["it was stopped"]
            raise StudyError(f"no configuration of study {self.study_id} finished: {'; '.join(reasons)}")
        return max(self.searched, key=lambda c: c.score(self.spec.objective))

    @cached_property
    def as_good_as_best(self) -> list[ConfigurationResult]:
        """Those not significantly worse than the best: the 95 % interval of the paired difference contains 0.

        With one seed there is no interval, so it is all the others.
        """
        metric, best = self.spec.objective.metric, self.best

        def differs(other: ConfigurationResult) -> bool:
            difference = paired_difference(best, other, metric)
            return abs(difference.mean) > difference.half_width

        others = [c for c in self.searched if c.trial.configuration != best.trial.configuration]
        return [other for other in others if not differs(other)]

    @cached_property
    def pareto_front(self) -> list[ConfigurationResult]:
        """The searched configurations that no other beats in every objective, by their means."""
        signs = np.array([1 if objective.mode == "max" else -1 for objective in self.spec.objectives])
        means = np.array(
            [[c.over_seeds(objective.metric).mean for objective in self.spec.objectives] for c in self.searched]
        )
        reached = means.reshape(-1, len(signs)) * signs
        return [
            c
            for c, own in zip(self.searched, reached, strict=True)
            if not ((reached >= own).all(axis=1) & (reached > own).any(axis=1)).any()
        ]

    @cached_property
    def rank_agreement(self) -> float:
        """Kendall's tau between val and clean test AP over the searched configurations; NaN with fewer than 3."""
        from scipy import stats

        if len(self.searched) < 3:
            return math.nan
        pairs = [[c.over_seeds(f"{split}/segm_AP").mean for split in ("val", "test")] for c in self.searched]
        return float(stats.kendalltau(*zip(*pairs, strict=True)).statistic)


def from_journal(study_id: str, spec: StudySpec, directory: Path, events: Sequence[Event]) -> StudyResult:
    """Return the result of a study from its journal, finished or not."""
    history = History.of(spec, events)
    trials = [
        TrialResult(
            trial=t.trial,
            records=[t.epochs[epoch].record for epoch in sorted(t.epochs)],
            directory=directory / STAGES / list(t.started.stages)[-1],
            end=t.end,
            reason=t.reason,
        )
        for t in history.trials.values()
    ]
    return StudyResult(
        study_id=study_id,
        spec=spec,
        directory=directory,
        trials=trials,
        cost=cost_of(history),
        complete=history.complete,
        versions=_versions(history.sessions),
    )


def _versions(sessions: Sequence[SessionHistory]) -> dict[str, str]:
    """Return each package's versions, in the order in which sessions ran on them."""
    found: dict[str, list[str]] = {}
    for session in sessions:
        for package, version in session.started.versions.items():
            found.setdefault(package.removeprefix("lncis.version."), []).append(version)
    return {package: ", then ".join(dict.fromkeys(versions)) for package, versions in found.items()}


def result_document(result: StudyResult) -> dict[str, Any]:
    """Return the result as strict JSON can hold it, for results.json: NaN as null, infinity as a word."""
    document: dict[str, Any] = documents.plain(
        {
            "study_id": result.study_id,
            "name": result.spec.name,
            "cost": asdict(result.cost),
            "best": result.best.trial.overrides if result.searched else None,
            "rank_agreement_val_test": result.rank_agreement,
            "trials": [
                {
                    "name": t.trial.name,
                    "label": t.trial.label,
                    "overrides": t.trial.overrides,
                    "baseline": t.trial.baseline,
                    "seed": t.trial.seed,
                    "noise_seed": t.trial.noise_seed,
                    "end": t.end,
                    "reason": t.reason or None,
                    "checkpoint": str(t.directory),
                    "records": t.records,
                }
                for t in result.trials
            ],
        }
    )
    return document
