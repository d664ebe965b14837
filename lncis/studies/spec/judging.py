"""Whether a study can be run: what its fields, each of them right, ask for together.

A study is judged at the door by which it comes in: a YAML file (`spec.files.load_spec`), a request to the service, or
`run_study` and `plan` for one made in Python. It takes a config for each combination of a grid, so what was judged is
not judged again: not where a study's own folder is read, nor where the service reads its database.
"""

from collections.abc import Iterator
from functools import reduce
from typing import Any, get_args, get_type_hints

from lncis.config import TrainConfig
from lncis.errors import ConfigError
from lncis.studies.spec import space
from lncis.studies.spec.samplers import OptunaSampler
from lncis.studies.spec.space import Categorical, Range
from lncis.studies.spec.study import StudySpec

_JUDGED = "_judged"


def judge(spec: StudySpec, *, source: str = "") -> StudySpec:
    """Return the study itself, which can be run; ConfigError names `source`, or the study, and every mistake.

    It may be called again at no cost: a study remembers that it was judged. A copy with other values does not.
    """
    if _JUDGED in vars(spec):
        return spec
    if problems := list(dict.fromkeys(_problems(spec))):
        raise ConfigError(source or spec.name, problems)
    return judged_before(spec)


def judged_before(spec: StudySpec) -> StudySpec:
    """Return the study itself, marked as judged, for one that came in by a door before it was stored."""
    vars(spec)[_JUDGED] = True
    return spec


def _problems(spec: StudySpec) -> Iterator[str]:
    yield from _seed_problems(spec)
    yield from _objective_problems(spec)
    yield from _first_problems(spec)
    yield from _search_problems(spec)
    for name, overrides in spec.baselines.items():
        if "seed" in overrides:
            yield f"baselines.{name}: seed must not be set; baselines train with every seed of seeds:"
        yield from _misfits(spec, f"baselines.{name}", overrides)
    if spec.base.batch_size % spec.resources.num_workers:
        yield (
            f"base.batch_size must be a multiple of resources.num_workers ({spec.resources.num_workers}) "
            f"but got {spec.base.batch_size}"
        )


def _seed_problems(spec: StudySpec) -> Iterator[str]:
    for field, seeds in (("seeds", spec.seeds), ("noise_seeds", spec.noise_seeds)):
        if len(set(seeds)) < len(seeds):
            yield f"{field} must differ but got {seeds}"
    if spec.base.seed != TrainConfig().seed:
        yield f"base.seed must not be set (got {spec.base.seed}): write seeds: [{spec.base.seed}]"
    if spec.noise_seeds and "noise.seed" in spec.search:
        yield "search.noise.seed: noise seeds stand under noise_seeds: already; drop one of the two"
    if spec.objective.select == "lower_bound" and len(spec.replicates) < 2:
        yield "objective.select: lower_bound needs at least 2 seeds; add some to seeds: or use mean"


def _objective_problems(spec: StudySpec) -> Iterator[str]:
    if spec.secondary_objectives and spec.pruner.type != "none":
        yield "pruner.type: must be none where there are secondary_objectives: a rung compares one objective"
    metrics = [objective.metric for objective in spec.objectives]
    if len(set(metrics)) < len(metrics):
        yield f"secondary_objectives: must name other metrics than objective, each once, but got {metrics[1:]}"


def _first_problems(spec: StudySpec) -> Iterator[str]:
    if not isinstance(spec.sampler, OptunaSampler):
        return
    first, number = spec.sampler.first, spec.sampler.configurations
    if len(first) > number:
        yield f"sampler.first: must hold at most {number} points (sampler.configurations) but got {len(first)}"
    for position, point in enumerate(first):
        yield from _point_problems(spec, f"sampler.first.{position}", point)


def _point_problems(spec: StudySpec, place: str, point: dict[str, Any]) -> list[str]:
    problems = [f"{place}.{path}: is not searched; drop it" for path in point if path not in spec.search]
    problems += [
        f"{place}.{path}: {complaint}"
        for path, value in point.items()
        if path in spec.search and (complaint := space.outside(spec.search[path], value))
    ]
    return problems or _misfits(spec, place, point)


def _search_problems(spec: StudySpec) -> list[str]:
    if "seed" in spec.search:
        return ["search.seed: training seeds are not searched; write them under seeds:"]
    if problems := space.problems(spec.search):
        return problems
    if problems := [line for path in spec.search for line in _fractions(spec, path)]:
        return problems
    if spec.sampler.type != "grid":
        for path, parameter in spec.search.items():
            tried = (space.example(spec.search, path, value) for value in parameter.examples)
            problems += next(filter(None, (_misfits(spec, "search", overrides) for overrides in tried)), [])
        return problems
    if ranges := [path for path, parameter in spec.search.items() if isinstance(parameter, Range)]:
        return [
            f"search.{path}: a grid needs choices, not a range; use type: categorical or sampler tpe" for path in ranges
        ]
    # each combination whole: values may fit together that do not fit the base alone
    return [problem for overrides in spec.grid for problem in _misfits(spec, "search", overrides)]


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


def _misfits(spec: StudySpec, place: str, overrides: dict[str, Any]) -> list[str]:
    try:
        spec.configure(overrides, seed=0)
    except ConfigError as error:
        return [f"{place}.{problem}" for problem in error.problems]
    return []
