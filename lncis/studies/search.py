"""Which configurations a study tries: grids and Optuna's samplers behind one ask-and-tell.

Optuna is used directly and not through Ray Tune's OptunaSearch. That one reports pruned trials as complete, leaves a
trial without a value running for ever, refuses grids, and cannot make one observation of several seeds.

The sampler is seeded anew for each configuration, from the study's seed and the configuration's number. A suggestion so
depends on the results reported before it and on nothing else, and a resumed study gets the same ones.
"""

import math
import warnings
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.study import StudyDirection
from optuna.trial import TrialState

from lncis.studies import pruning
from lncis.studies.record.journal import Observation
from lncis.studies.spec import StudySpec
from lncis.studies.spec.samplers import (
    AshaPruner,
    GridSampler,
    HyperbandPruner,
    MedianPruner,
    NoPruner,
    OptunaSampler,
)
from lncis.studies.spec.space import Categorical, Range, applies
from lncis.studies.stages.tree import StageTree


class Suggester:
    """The searched configurations of a study, one after another."""

    def __init__(self, spec: StudySpec, earlier: Sequence[Observation] = ()) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._spec = spec
        self._study = empty_study(spec, len(earlier))
        for observation in earlier:
            self._study.add_trial(as_optuna(spec, observation))
        self._trials: list[optuna.Trial] = []
        self._closed: set[int] = set()  # those whose result Optuna has
        self._scores: dict[tuple[int, int], pruning.RungScores] = {}  # bracket, rung -> scores there
        self._points = spec.grid if spec.sampler.type == "grid" else spec.sampler.first

    @property
    def proposed(self) -> int:
        """How many configurations were suggested."""
        return len(self._trials)

    def ask(self, overrides: dict[str, Any] | None = None) -> tuple[int, dict[str, Any]] | None:
        """Return the number of the next configuration and its overrides; None when all have been suggested.

        A resumed study passes the overrides that it got the first time, and gets them again.
        """
        number = len(self._trials)
        if number == self._spec.configurations:
            return None
        point = overrides if overrides is not None else self._points[number] if number < len(self._points) else None
        if point is not None:
            self._study.enqueue_trial(point)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # group, for conditional spaces
            # whatever it was given the first time is there whole: nothing is to be drawn
            given = overrides is not None
            self._study.sampler = optuna.samplers.RandomSampler() if given else _sampler(self._spec, number)
        trial = self._study.ask()
        self._trials.append(trial)
        return number, self._suggest(trial)

    def _suggest(self, trial: optuna.Trial) -> dict[str, Any]:
        chosen: dict[str, Any] = {}
        for path, parameter in self._spec.search.items():
            if not applies(parameter, chosen):
                continue
            drawn = distribution(parameter)
            if isinstance(drawn, CategoricalDistribution):
                chosen[path] = trial.suggest_categorical(path, drawn.choices)
            elif isinstance(drawn, IntDistribution):
                chosen[path] = trial.suggest_int(path, drawn.low, drawn.high, log=drawn.log)
            elif isinstance(drawn, FloatDistribution):
                chosen[path] = trial.suggest_float(path, drawn.low, drawn.high, log=drawn.log)
        return chosen

    def should_prune(self, number: int, epoch: int, value: float) -> bool:
        """Note the mean that a configuration has at a rung; say whether the pruner stops it there."""
        if not math.isfinite(value):
            return False
        trial = self._trials[number]
        trial.report(value, epoch)
        pruner = self._spec.pruner
        if not isinstance(pruner, AshaPruner | HyperbandPruner):
            return trial.should_prune()
        # not by Optuna: it would compare a configuration that skips the first rungs there too, with its later value
        bracket = 0
        if isinstance(pruner, HyperbandPruner):
            bracket = pruning.bracket_of(pruner, self._spec.name, number, self._rungs)
            if epoch in self._rungs[:bracket]:
                return False
        score = value if self._spec.objective.mode == "max" else -value
        reached = self._scores.setdefault((bracket, epoch), pruning.RungScores())
        reached.add(number, score)
        return pruning.asha_stops(pruner, score, reached)

    @cached_property
    def _rungs(self) -> tuple[int, ...]:
        return StageTree(self._spec, Path()).rungs

    def reopen(self, number: int) -> None:
        """Open a configuration again that ended without a value; for Optuna its next attempt is another trial."""
        if number in self._closed:
            self._closed.remove(number)
            self._study.enqueue_trial(self._trials[number].params)
            self._trials[number] = self._study.ask()
            self._suggest(self._trials[number])

    def tell(self, number: int, values: Sequence[Sequence[float]]) -> None:
        """Report a configuration to Optuna, by the means of `values`: for each objective those of its trials.

        Where a value is missing or not finite the configuration has failed.
        """
        trial = self._trials[number]
        self._closed.add(number)
        if all(reached and all(map(math.isfinite, reached)) for reached in values):
            self._study.tell(trial, [sum(reached) / len(reached) for reached in values])
        else:
            self._study.tell(trial, state=TrialState.FAIL)

    def tell_pruned(self, number: int) -> None:
        """Report to Optuna that a configuration was pruned; repeated it changes nothing."""
        if number not in self._closed:
            self._closed.add(number)
            self._study.tell(self._trials[number], state=TrialState.PRUNED)


def empty_study(spec: StudySpec, earlier: int = 0) -> optuna.Study:
    """Return an Optuna study in memory that has the objectives and the pruner of a spec."""
    directions = [
        StudyDirection.MAXIMIZE if objective.mode == "max" else StudyDirection.MINIMIZE for objective in spec.objectives
    ]
    return optuna.create_study(directions=directions, pruner=_pruner(spec, earlier))


def as_optuna(spec: StudySpec, observation: Observation) -> optuna.trial.FrozenTrial:
    """Return an observation as a finished trial of Optuna."""
    distributions = {path: distribution(spec.search[path]) for path in observation.overrides}
    return optuna.trial.create_trial(
        params=observation.overrides, distributions=distributions, values=observation.values
    )


def distribution(parameter: Categorical | Range) -> BaseDistribution:
    """Return a parameter as Optuna's distribution."""
    if not isinstance(parameter, Range):
        return CategoricalDistribution(parameter.choices)
    if parameter.type == "int":
        return IntDistribution(int(parameter.low), int(parameter.high), log=parameter.log)
    return FloatDistribution(parameter.low, parameter.high, log=parameter.log)


def _sampler(spec: StudySpec, number: int) -> optuna.samplers.BaseSampler:
    match spec.sampler:
        case GridSampler():
            return optuna.samplers.RandomSampler()  # never draws: all points are given
        case OptunaSampler(type="random"):
            return optuna.samplers.RandomSampler(seed=_sampler_seed(spec.sampler, number))
        case OptunaSampler(type="tpe"):
            conditional = any(parameter.when for parameter in spec.search.values())
            # constant_liar would use configurations that have not ended, which a resumed study does not know
            return optuna.samplers.TPESampler(
                seed=_sampler_seed(spec.sampler, number), multivariate=True, group=conditional, constant_liar=False
            )
        case OptunaSampler(type="gp"):
            return optuna.samplers.GPSampler(seed=_sampler_seed(spec.sampler, number))
    raise AssertionError(f"no sampler for {spec.sampler}")


def _sampler_seed(sampler: OptunaSampler, number: int) -> int:
    return int(np.random.SeedSequence([sampler.seed, number]).generate_state(1)[0])


def _pruner(spec: StudySpec, earlier: int) -> optuna.pruners.BasePruner:
    match spec.pruner:
        case MedianPruner() as pruner:  # which also counts the observations of an earlier study
            return optuna.pruners.MedianPruner(n_startup_trials=pruner.startup_configurations + earlier)
        case AshaPruner() | HyperbandPruner() | NoPruner():  # these are decided in lncis.studies.pruning
            return optuna.pruners.NopPruner()
