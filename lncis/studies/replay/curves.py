"""What a finished study knows of its configurations, epoch by epoch: all that a replay may use."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lncis.errors import ConfigError, StudyError
from lncis.studies import folders
from lncis.studies.record import journal
from lncis.studies.record.history import History, TrialHistory
from lncis.studies.record.journal import JOURNAL, End
from lncis.studies.report.intervals import Replicate
from lncis.studies.report.result import StudyResult, from_journal
from lncis.studies.spec import StudySpec, Trial

Point = tuple[tuple[str, Any], ...]
"""Overrides in a form that can be compared and looked up."""


@dataclass(frozen=True, kw_only=True)
class Curve:
    """What one configuration reached."""

    trial: Trial
    """One of its trials; they differ in their seeds alone."""
    values: dict[int, float]
    """Epoch -> mean of the objective over the seeds, where all of them have it."""
    last: int
    """The last epoch that all seeds have."""
    finals: list[float]
    """The objective after the last epoch with each seed, in the order of the spec; empty where it was pruned."""
    score: float
    """By which the best configuration is selected: the largest; -inf where it was pruned."""
    trained: list[int] = field(repr=False)
    """Number of epochs, from 0 on -> the epochs that all seeds train up to there, as bits: two bits of one place are
    one epoch, which two configurations share."""

    @property
    def epochs(self) -> int:
        """The epochs it would have at its end."""
        return self.trial.config.schedule.epochs


@dataclass(frozen=True, kw_only=True)
class Curves:
    """The searched configurations of a finished study, in the order in which they started."""

    study_id: str
    spec: StudySpec
    curves: list[Curve]
    replicates: list[Replicate]
    baselines: int
    """The epochs of the baselines, as bits: a pruner never stops them."""
    failed: int
    """Configurations that are left out, as one of their trials failed."""
    as_good: int
    """Other configurations that cannot be told apart from the winner, all comparisons together at 95 %."""
    pruned: int
    """Configurations that are known only up to where the study's own pruner stopped them."""

    @property
    def whole(self) -> list[Curve]:
        """The configurations that are known to their end."""
        return [curve for curve in self.curves if curve.finals]

    @property
    def winner(self) -> Curve:
        """The configuration that the study selected."""
        return max(self.whole, key=lambda curve: curve.score)

    @property
    def epochs(self) -> int:
        """What all configurations train to their ends, baselines included, epochs that they share counted once."""
        everything = self.baselines
        for curve in self.curves:
            everything |= curve.trained[-1]
        return everything.bit_count()


def point_of(overrides: dict[str, Any]) -> Point:
    """Return overrides so that equal ones are equal, whatever their order."""
    return tuple(sorted(overrides.items()))


def read_curves(run: Path, runs: Path) -> Curves:
    """Return what is known of a study, by its id in `runs` or by its folder.

    Raises ConfigError where there is no such study, StudyError where its journal is of no use: it is not finished, is
    another study's, or knows fewer than two configurations to their end.
    """
    here = run if (run / folders.SPEC).exists() else runs / run
    study_id, folder = here.absolute().name, here.absolute()
    spec = folders.read_spec(folder.parent, study_id)
    history = _history(spec, folder)
    if not history.trials:
        raise StudyError(f"{folder / JOURNAL} has no trial yet, so there is no curve; run the study first")
    if not history.complete:
        raise StudyError(
            f"study {study_id} is not finished, so its winner is not known; finish it with: "
            f"lncis study run --resume {study_id}"
        )
    result = from_journal(study_id, spec, folder, journal.read(folder))
    found = _curves(result, history)
    if len(found.whole) < 2:
        raise StudyError(
            f"study {study_id} knows {len(found.whole)} of its {len(found.curves) + found.failed} configurations to "
            "the end, and a pruner needs two to compare; replay a study without a pruner and with two or more"
        )
    return found


def _history(spec: StudySpec, folder: Path) -> History:
    """Return the history of a study; StudyError where the journal is not this study's."""
    try:
        history = History.of(spec, journal.read(folder))
        for trial in history.trials.values():
            if not trial.trial.config.schedule.epochs == trial.epochs_to_train:
                raise ValueError(f"{trial.trial.name} has {trial.epochs_to_train} epochs")
        strange = [t.started for t in history.trials.values() if not _belongs(spec, t)]
        if strange:
            raise ValueError(f"{strange[0].trial} is none of its trials")
    except (LookupError, ValueError, StopIteration, ConfigError) as error:
        reason = "; ".join(str(error).splitlines())
        raise StudyError(
            f"{folder / JOURNAL} is not of the study in {folders.SPEC} beside it ({reason}); name a study's own folder"
        ) from error
    return history


def _belongs(spec: StudySpec, trial: TrialHistory) -> bool:
    started = trial.started
    searched = started.baseline in spec.baselines if started.baseline else set(started.overrides) <= set(spec.search)
    return searched and started.seed in spec.seeds


def _curves(result: StudyResult, history: History) -> Curves:
    spec, metric = result.spec, result.spec.objective.metric
    bits = _bits(history.trials.values())
    found, baselines, failed, replicates = list[Curve](), 0, 0, list[Replicate]()
    order = dict.fromkeys(t.started.configuration for t in history.trials.values())
    by_number = {c.trial.configuration: c for c in result.configurations}
    for configuration in (by_number[number] for number in order):
        trials = [history.trials[t.trial.name] for t in configuration.trials]
        trained = [0]
        for epoch in range(1, max(t.epochs_to_train for t in trials) + 1):
            trained.append(trained[-1])
            for trial in trials:
                if epoch <= trial.epochs_to_train:
                    trained[-1] |= 1 << bits[trial.started.stage_of(epoch), epoch]
        if configuration.trial.baseline is not None:
            baselines |= trained[-1]
            continue
        finished = all(t.end is End.FINISHED for t in trials)
        finals = [t.last(metric) for t in configuration.trials] if finished else []
        whole = len(trials) == len(spec.replicates) and all(t.end in (End.FINISHED, End.PRUNED) for t in trials)
        if not whole or not all(map(math.isfinite, finals)):
            failed += 1
            continue
        evaluated = [{e: t.epochs[e].record[metric] for e in t.epochs if metric in t.epochs[e].record} for t in trials]
        both = sorted(set.intersection(*map(set, evaluated)))
        replicates = configuration.replicates
        found.append(
            Curve(
                trial=configuration.trial,
                # as the scheduler adds them up: to the bit
                values={epoch: sum(of_seed[epoch] for of_seed in evaluated) / len(evaluated) for epoch in both},
                last=min(t.epoch for t in trials),
                finals=finals,
                score=configuration.score(spec.objective) if finished else -math.inf,
                trained=trained,
            )
        )
    return Curves(
        study_id=result.study_id,
        spec=spec,
        curves=found,
        replicates=replicates,
        baselines=baselines,
        failed=failed,
        as_good=len(result.as_good_as_best) if result.searched else 0,
        pruned=sum(not curve.finals for curve in found),
    )


def _bits(trials: Iterable[TrialHistory]) -> dict[tuple[str, int], int]:
    """Return a number for each epoch of each stage: trials that share the stage share its epochs."""
    numbers: dict[tuple[str, int], int] = {}
    for trial in trials:
        for epoch in range(1, trial.epochs_to_train + 1):
            numbers.setdefault((trial.started.stage_of(epoch), epoch), len(numbers))
    return numbers
