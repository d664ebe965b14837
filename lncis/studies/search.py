"""Which configurations a study tries: grids and Optuna's samplers behind one ask-and-tell.

Optuna is asked and told here, not through Ray Tune's OptunaSearch, which tells pruned trials as complete, leaves a
trial without a value running for ever, refuses grids, and cannot make one observation of several seeds.
"""

import math
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState

from lncis.studies.spec import Parameter, Range, StudySpec


class Configurations:
    """The searched configurations of a study, one after another."""

    def __init__(self, spec: StudySpec) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._remaining = spec.configurations
        self._distributions = {path: _distribution(parameter) for path, parameter in spec.search.items()}
        self._study = optuna.create_study(
            direction="maximize" if spec.objective.mode == "max" else "minimize", sampler=_sampler(spec)
        )
        for point in spec.grid if spec.sampler.type == "grid" else ():
            self._study.enqueue_trial(point)

    def ask(self) -> tuple[int, dict[str, Any]] | None:
        """Return the number of the next configuration and its overrides; None when all have been proposed."""
        if self._remaining == 0:
            return None
        self._remaining -= 1
        trial = self._study.ask(self._distributions)
        return trial.number, trial.params

    def tell(self, number: int, values: list[float]) -> None:
        """Tell what the trials of a configuration reached: their mean counts, and nothing if one has no value."""
        if values and all(math.isfinite(value) for value in values):
            self._study.tell(number, sum(values) / len(values))
        else:
            self._study.tell(number, state=TrialState.FAIL)


def _sampler(spec: StudySpec) -> optuna.samplers.BaseSampler:
    if spec.sampler.type == "tpe":
        return optuna.samplers.TPESampler(seed=spec.sampler.seed)
    # a grid's points are enqueued, so its sampler is never asked
    return optuna.samplers.RandomSampler(seed=getattr(spec.sampler, "seed", 0))


def _distribution(parameter: Parameter) -> BaseDistribution:
    if not isinstance(parameter, Range):
        return CategoricalDistribution(parameter.choices)
    if parameter.type == "int":
        return IntDistribution(int(parameter.low), int(parameter.high), log=parameter.log)
    return FloatDistribution(parameter.low, parameter.high, log=parameter.log)
