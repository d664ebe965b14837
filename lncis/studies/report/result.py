"""What a study found: the trials, and what they say about the configurations."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from lncis import documents
from lncis.config import NoiseConfig, NoNoise
from lncis.errors import StudyError
from lncis.metrics import Record
from lncis.noise import NOISE_MANIFEST
from lncis.studies.record.history import History, SessionHistory
from lncis.studies.record.journal import End, Event
from lncis.studies.report.cost import Cost, cost_of
from lncis.studies.report.intervals import Interval, RankAgreement, Replicate, interval, rank_agreement
from lncis.studies.report.selection import Selection, selection
from lncis.studies.spec import SelectionObjective, StudySpec, Trial
from lncis.studies.stages.tree import STAGES

FEWEST_RANKED = 6
"""With fewer configurations no agreement of val and test is said: of three, four of six random orders give ±0.33."""


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


def replicate_of(trial: Trial) -> Replicate:
    """Return what a trial replicates its configuration with; without noise every draw gives the same training."""
    return trial.replicate._replace(noise_seed=None) if isinstance(trial.config.noise, NoNoise) else trial.replicate


def of_one_draw(spec: StudySpec) -> bool:
    """Say whether intervals cover the training seed alone, though labels are drawn."""
    return not isinstance(spec.base.noise, NoNoise) and len(spec.noise_seeds) < 2


def score(objective: SelectionObjective, values: Sequence[float], replicates: Sequence[Replicate]) -> float:
    """Return the score of a configuration from its objective with each replicate; the best has the largest.

    That is the mean or its lower bound, negative where less is better; -inf without a finite value.
    """
    if objective.select == "lower_bound":
        reached = interval(values, replicates)
        mean, margin = reached.mean, reached.half_width
    else:  # of thousands of configurations an interval would take the service most of a request
        finite = [value for value in values if math.isfinite(value)]
        mean, margin = (math.fsum(finite) / len(finite) if finite else math.nan), 0.0
    reached_most = (mean if objective.mode == "max" else -mean) - margin
    return -math.inf if math.isnan(reached_most) else reached_most


@dataclass(frozen=True, kw_only=True)
class ConfigurationResult:
    """The trials of one configuration, one for each replicate, in the order of the spec."""

    trials: list[TrialResult]

    @property
    def trial(self) -> Trial:
        """One of its trials; they differ in their seed alone."""
        return self.trials[0].trial

    @property
    def replicates(self) -> list[Replicate]:
        """What each trial replicates the configuration with."""
        return [replicate_of(t.trial) for t in self.trials]

    def over_seeds(self, metric: str) -> Interval:
        """Return the mean of a metric over the trials that finished, and its interval."""
        return interval([trial.last(metric) for trial in self.trials], self.replicates)

    def score(self, objective: SelectionObjective) -> float:
        """Return its score; the best configuration has the largest."""
        return score(objective, [trial.last(objective.metric) for trial in self.trials], self.replicates)


def paired_difference(one: ConfigurationResult, other: ConfigurationResult, metric: str) -> Interval:
    """Return the interval of `one` minus `other`, seed by seed and fold by fold.

    Effects of a seed, of a fold and of a shared stage cancel.
    """
    others = {t.trial.replicate: t for t in other.trials}
    pairs = [(t, others.get(t.trial.replicate)) for t in one.trials]
    found = [
        (mine.last(metric) - its.last(metric), max(map(replicate_of, (mine.trial, its.trial)), key=_has_draw))
        for mine, its in pairs
        if its
    ]
    return interval([difference for difference, _ in found], [replicate for _, replicate in found])


def _has_draw(replicate: Replicate) -> bool:
    return replicate.noise_seed is not None


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
        for result in sorted(self.trials, key=lambda r: place[r.trial.replicate]):
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
            resume = f"it was stopped, or still runs; `lncis study run --resume {self.study_id}` finishes it"
            reasons = sorted({t.reason for t in self.trials if t.reason}) or [resume]
            raise StudyError(f"no configuration of study {self.study_id} finished: {'; '.join(reasons)}")
        return max(self.searched, key=lambda c: c.score(self.spec.objective))

    @cached_property
    def selection(self) -> Selection | None:
        """What the replicates say about the best of `searched`, in its order; None without two of either."""
        if len(self.searched) < 2:
            return None
        objective = self.spec.objective
        values = np.array([[t.last(objective.metric) for t in c.trials] for c in self.searched])
        numbers = [c.trial.configuration for c in self.searched]
        return selection(
            values if objective.mode == "max" else -values,
            self.best.replicates,
            numbers.index(self.best.trial.configuration),
        )

    @cached_property
    def as_good_as_best(self) -> list[ConfigurationResult]:
        """The others that cannot be told apart from the best, all comparisons together at 95 %.

        With one seed nothing can be told apart, so it is all the others.
        """
        as_good = self.selection.as_good if self.selection else [True] * len(self.searched)
        best = self.best.trial.configuration
        return [c for c, mine in zip(self.searched, as_good, strict=True) if mine and c.trial.configuration != best]

    @cached_property
    def probability_of_best(self) -> dict[int, float]:
        """The probability of each searched configuration, by its number, to have the best expectation; may be empty."""
        found = self.selection.probability if self.selection else []
        return {c.trial.configuration: share for c, share in zip(self.searched, found, strict=False)}

    @cached_property
    def realised_noise(self) -> dict[int | None, float]:
        """The share of train's labels that were flipped, by noise seed, as far as the study's folder says it."""
        found: dict[int | None, float] = {}
        for trial in self.trials:
            same = _unseeded(trial.trial.config.noise) == _unseeded(self.spec.base.noise)
            if trial.trial.noise_seed not in found and same and (rate := _flipped(trial.directory)) is not None:
                found[trial.trial.noise_seed] = rate
        return found

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
    def rank_agreement(self) -> RankAgreement | None:
        """How well the objective on val orders the searched configurations as on clean test; None for fewer than 6."""
        if len(self.searched) < FEWEST_RANKED:
            return None
        of_test = f"test/{self.spec.objective.metric.removeprefix('val/')}"
        pairs = [[c.over_seeds(metric).mean for metric in (self.spec.objective.metric, of_test)] for c in self.searched]
        return rank_agreement(*zip(*pairs, strict=True))


def _unseeded(noise: NoiseConfig) -> NoiseConfig:
    return noise if isinstance(noise, NoNoise) else replace(noise, seed=0)


def _flipped(stage: Path) -> float | None:
    """Return the share of labels that the noise of a stage flipped; None where its folder does not say it."""
    try:
        return float(json.loads((stage / NOISE_MANIFEST).read_text("utf-8"))["train"]["realised_rate"])
    except (OSError, ValueError, TypeError, LookupError):
        return None


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
            "extends": result.spec.extends.study if result.spec.extends else None,
            "cost": asdict(result.cost),
            "best": result.best.trial.overrides if result.searched else None,
            "as_good_as_best": [c.trial.overrides for c in result.as_good_as_best] if result.searched else [],
            "optimism_of_best": result.selection.optimism if result.selection else None,
            "rank_agreement_val_test": asdict(result.rank_agreement) if result.rank_agreement else None,
            "realised_noise": [{"noise_seed": seed, "rate": rate} for seed, rate in result.realised_noise.items()],
            "configurations": [
                {
                    "label": c.trial.label,
                    "overrides": c.trial.overrides,
                    "baseline": c.trial.baseline,
                    "probability_of_best": result.probability_of_best.get(c.trial.configuration),
                }
                for c in result.configurations
            ],
            "trials": [
                {
                    "name": t.trial.name,
                    "label": t.trial.label,
                    "overrides": t.trial.overrides,
                    "baseline": t.trial.baseline,
                    "seed": t.trial.seed,
                    "noise_seed": t.trial.noise_seed,
                    "fold": t.trial.fold.number if t.trial.fold else None,
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
