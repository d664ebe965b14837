"""Whether a study can be run: what its fields, each of them right, ask for together.

A study is judged at the door by which it comes in: a YAML file (`spec.files.load_spec`), a request to the service, or
`run_study` and `plan` for one made in Python. It takes a config for each combination of a grid, so what was judged is
not judged again: not where a study's own folder is read, nor where the service reads its database.
"""

from collections.abc import Callable, Iterable, Iterator
from functools import reduce
from itertools import islice
from typing import Any, get_args, get_type_hints

from lncis.config import TrainConfig
from lncis.errors import ConfigError
from lncis.studies.spec import space
from lncis.studies.spec.samplers import OptunaSampler
from lncis.studies.spec.space import Categorical, Range
from lncis.studies.spec.study import StudySpec

Rule = Callable[[TrainConfig], list[str]]
"""Returns what a place that runs studies does not take of a configuration, each line as `dotted.path: problem`."""

MAX_PROBLEMS = 1000
"""Lines of a ConfigError: a grid may fail with each of its combinations."""

OF_VAL = ("dataset", "noise", "val_labels")
"""Parts of a training that decide what `val` holds and how noisy it is: under others the objective is another one."""

_JUDGED = "_judged"


def judge(spec: StudySpec, *, source: str = "", rule: Rule | None = None) -> StudySpec:
    """Return the study itself, which can be run; ConfigError names `source`, or the study, and its mistakes.

    `rule` is asked about the base and about every configuration that is tried here. It must look at each field for
    itself: of a space that is not a grid each value is tried, not each combination.

    It may be called again at no cost: a study remembers that it was judged. A copy with other values does not.
    """
    if _JUDGED in vars(spec) and rule is None:
        return spec
    if problems := list(islice(_each_once(_problems(spec, rule)), MAX_PROBLEMS)):
        raise ConfigError(source or spec.name, problems)
    return judged_before(spec)


def judged_before(spec: StudySpec) -> StudySpec:
    """Return the study itself, marked as judged, for one that came in by a door before it was stored."""
    vars(spec)[_JUDGED] = True
    return spec


def _each_once(lines: Iterator[str]) -> Iterator[str]:
    seen = set[str]()
    for line in lines:
        if line not in seen:
            seen.add(line)
            yield line


def _problems(spec: StudySpec, rule: Rule | None) -> Iterator[str]:
    return _Judge(spec, rule).problems()


class _Judge:
    """Looks at one study, and at its configurations with one rule."""

    def __init__(self, spec: StudySpec, rule: Rule | None) -> None:
        self._spec, self._rule = spec, rule
        self._of_base = set(rule(spec.base)) if rule else set[str]()

    def problems(self) -> Iterator[str]:
        """Yield a line for each mistake; the same line may come again."""
        spec = self._spec
        yield from (f"base.{problem}" for problem in sorted(self._of_base))
        yield from _seed_problems(spec)
        yield from _fold_problems(spec)
        yield from _objective_problems(spec)
        yield from self._first_problems()
        yield from self._search_problems()
        yield from _rung_problems(spec)
        for name, overrides in spec.baselines.items():
            if "seed" in overrides:
                yield f"baselines.{name}: seed must not be set; baselines train with every seed of seeds:"
            if spec.folds and _of_fold(overrides):
                yield f"baselines.{name}: fold must not be set; baselines train with every fold of folds:"
            yield from self._misfits(f"baselines.{name}", overrides)
        yield from _budget_problems(spec)
        if spec.base.batch_size % spec.resources.num_workers:
            yield (
                f"base.batch_size must be a multiple of resources.num_workers ({spec.resources.num_workers}) "
                f"but got {spec.base.batch_size}"
            )

    def _first_problems(self) -> Iterator[str]:
        sampler = self._spec.sampler
        if not isinstance(sampler, OptunaSampler):
            return
        if len(sampler.first) > sampler.configurations:
            yield (
                f"sampler.first: must hold at most {sampler.configurations} points (sampler.configurations) "
                f"but got {len(sampler.first)}"
            )
        for position, point in enumerate(sampler.first):
            yield from self._point_problems(f"sampler.first.{position}", point)

    def _point_problems(self, place: str, point: dict[str, Any]) -> list[str]:
        search = self._spec.search
        problems = [f"{place}.{path}: is not searched; drop it" for path in point if path not in search]
        problems += [
            f"{place}.{path}: {complaint}"
            for path, value in point.items()
            if path in search and (complaint := space.outside(search[path], value))
        ]
        return problems or self._misfits(place, point)

    def _search_problems(self) -> Iterator[str]:
        spec = self._spec
        if "seed" in spec.search:
            yield "search.seed: training seeds are not searched; write them under seeds:"
            return
        if problems := [line for path in spec.search for line in _not_comparable(path)]:
            yield from problems
            return
        if problems := space.problems(spec.search):
            yield from problems
            return
        if problems := [line for path in spec.search for line in _fractions(spec, path)]:
            yield from problems
            return
        if spec.sampler.type == "gp" and (when := [path for path, one in spec.search.items() if one.when]):
            yield f"search.{when[0]}.when: sampler gp knows no conditions; use sampler tpe, or drop this one"
            return
        if spec.sampler.type != "grid":
            for path, parameter in spec.search.items():
                tried = (space.example(spec.search, path, value) for value in parameter.examples)
                yield from next(filter(None, (self._misfits("search", overrides) for overrides in tried)), [])
            return
        if ranges := [path for path, parameter in spec.search.items() if isinstance(parameter, Range)]:
            for path in ranges:
                yield f"search.{path}: a grid needs choices, not a range; use type: categorical or sampler tpe"
            return
        # each combination whole: values may fit together that do not fit the base alone
        for overrides in spec.grid:
            yield from self._misfits("search", overrides)

    def _misfits(self, place: str, overrides: dict[str, Any]) -> list[str]:
        try:
            config = self._spec.configure(overrides, seed=0)
        except ConfigError as error:
            return [f"{place}.{problem}" for problem in error.problems]
        if self._rule is None:
            return []
        return [f"{place}.{problem}" for problem in self._rule(config) if problem not in self._of_base]


def _seed_problems(spec: StudySpec) -> Iterator[str]:
    for field, seeds in (("seeds", spec.seeds), ("noise_seeds", spec.noise_seeds)):
        if len(set(seeds)) < len(seeds):
            yield f"{field} must differ but got {seeds}"
    if spec.base.seed != TrainConfig().seed:
        yield f"base.seed must not be set (got {spec.base.seed}): write seeds: [{spec.base.seed}]"
    if spec.objective.select == "lower_bound" and len(spec.replicates) < 2:
        yield "objective.select: lower_bound needs at least 2 seeds; add some to seeds: or use mean"


def _rung_problems(spec: StudySpec) -> Iterator[str]:
    """Yield what keeps a pruner from its rungs: they are counted from the end of stage 1."""
    searched = spec.search.get(space.STAGE1_EPOCHS)
    sets_itself = [spec.base.schedule.stage1_epochs, *(searched.examples if searched else [])]
    if spec.pruner.type != "none" and "auto" in sets_itself:
        yield (
            f"pruner.type: must be none where schedule.stage1_epochs is auto, as rungs are counted from the end of "
            f"stage 1, but got {spec.pruner.type}"
        )


def _fold_problems(spec: StudySpec) -> Iterator[str]:
    if spec.folds is not None and spec.base.fold is not None:
        yield (
            f"base.fold must not be set beside folds: {spec.folds}, which leaves out each part in turn; drop one of "
            "the two"
        )


def _of_fold(paths: Iterable[str]) -> bool:
    return any(path.partition(".")[0] == "fold" for path in paths)


def _budget_problems(spec: StudySpec) -> Iterator[str]:
    if spec.budget.money is not None and spec.resources.price_per_worker_hour is None:
        yield "budget.money: needs resources.price_per_worker_hour; set that, or limit worker_hours"
    if spec.budget.epochs is not None and spec.budget.epochs < spec.base.schedule.epochs:
        yield (
            f"budget.epochs: must be {spec.base.schedule.epochs} or more, the epochs of one trial, "
            f"but got {spec.budget.epochs}"
        )


def _not_comparable(path: str) -> Iterator[str]:
    """Yield what is wrong with a searched path under which configurations are judged on another `val`."""
    if path == "noise.seed":
        yield "search.noise.seed: noise draws are not searched; write them under noise_seeds:"
    elif _of_fold([path]):
        yield (
            f"search.{path}: folds are not searched, as each has another val; write folds: 5 beside seeds:, which "
            "trains each configuration once without each of 5 parts"
        )
    elif path.partition(".")[0] in OF_VAL:
        yield (
            f"search.{path}: must not be searched, as val changes with it and the easiest val would win; run a study "
            f"for each value (--set {path}=VALUE) and join them by `lncis study compare`"
        )


def _objective_problems(spec: StudySpec) -> Iterator[str]:
    if spec.secondary_objectives and spec.pruner.type != "none":
        yield "pruner.type: must be none where there are secondary_objectives: a rung compares one objective"
    metrics = [objective.metric for objective in spec.objectives]
    if len(set(metrics)) < len(metrics):
        yield f"secondary_objectives: must name other metrics than objective, each once, but got {metrics[1:]}"


def _fractions(spec: StudySpec, path: str) -> Iterator[str]:
    """Yield what a parameter gives to a field of whole numbers that is none."""
    if not _holds_whole_numbers(spec, path):
        return
    parameter = spec.search[path]
    if isinstance(parameter, Categorical):
        if fractions := [choice for choice in parameter.choices if isinstance(choice, float)]:
            yield f"search.{path}.choices: must be whole numbers, such as 4 and not 4.0, but got {fractions[0]!r}"
    elif parameter.type == "float":
        yield f"search.{path}.type: must be int, as the field holds whole numbers, but got 'float'"


def _holds_whole_numbers(spec: StudySpec, path: str) -> bool:
    *above, name = path.split(".")
    try:
        config = spec.configure(space.conditions(spec.search, path), seed=0)
        part: Any = reduce(getattr, above, config)
    except (ConfigError, AttributeError):  # which is said where its values are tried
        return False
    hint = get_type_hints(type(part)).get(name)
    return int in (hint, *get_args(hint))
