"""What a shared service takes of a study: the files that any of its configurations names, and how large it is."""

import asyncio
import json
import time
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
from fake_ray import SPEC

from lncis import documents
from lncis.config import CocoData, TrainConfig
from lncis.config.model import _absolute_file
from lncis.data_identity import identify
from lncis.errors import ConfigError, DataError
from service.api import problems
from service.api.submission import bodies, limits, plans, presets
from service.api.submission.named_files import WEIGHTS
from service.settings import Settings

COCO = {"type": "coco", "images": "in/images", "train": "in/train.json", "test": "in/test.json"}
RESNET = {"type": "maskrcnn_resnet50_fpn"}


@pytest.fixture
def roots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The folder `in`; this process works in the folder above it, so relative paths begin there."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    return [tmp_path / "in"]


def refusals(document: Any, **settings: Any) -> dict[str, str]:
    """Return the problems of a study by their paths; none if it is taken."""
    try:
        bodies.to_spec(document, Settings(**settings))
    except ConfigError as error:
        return {entry["path"]: entry["problem"] for entry in problems.field_errors(error)}
    return {}


def choices(*values: Any, **more: Any) -> dict[str, Any]:
    return {"type": "categorical", "choices": list(values), **more}


@pytest.mark.parametrize("sampler", [{"type": "grid"}, {"type": "tpe", "configurations": 4}])
@pytest.mark.parametrize(
    ("field", "inside", "outside"),
    [
        ("dataset.images", "in/images", "secret"),
        ("dataset.train", "in/train.json", "train.json"),
        ("dataset.val", "in/val.json", "in/../val.json"),
        ("dataset.test_images", "in/images", "~"),
        ("model.weights", "in/weights.pt", "weights.pt"),
        ("model.weights", "in/weights.pth", "in/weights.pkl"),
        ("model.weights", "in/weights.pt", "in/weights.dat"),
        ("model.weights", "in/weights.pt", "in/weights"),
        ("dataset.test", "in/test.json", "in/test.json.pkl"),
    ],
)
@pytest.mark.parametrize("reached_by", ["base", "search", "baselines", "baselines as mappings"])
def test_every_configuration_is_judged_as_the_base_is(roots, reached_by, field, inside, outside, sampler):
    part, name = field.split(".")

    def study(file: str) -> dict[str, Any]:
        document: dict[str, Any] = {**SPEC, "base": {"dataset": COCO, "model": RESNET}, "sampler": sampler}
        of_part = {**{"dataset": COCO, "model": RESNET}[part], name: file}
        match reached_by:
            case "base":
                document["base"] = {**document["base"], part: of_part}
            case "search":
                document["search"] = {field: choices(inside, file) if file != inside else choices(file)}
            case "baselines":
                document["baselines"] = {"x": {field: file}}
            case _:
                document["baselines"] = {"x": {part: of_part}}
        return document

    if (reached_by, part) == ("search", "dataset"):  # of no study, wherever the files lie
        assert refusals(study(inside), data_roots=roots)[f"search.{field}"].startswith("must not be searched")
        assert [*refusals(study(outside), data_roots=roots)] == [f"search.{field}"]
        return
    assert refusals(study(inside), data_roots=roots) == {}
    place = {"base": "base", "search": "search"}.get(reached_by, "baselines.x")
    assert [*refusals(study(outside), data_roots=roots)] == [f"{place}.{field}"]
    assert "LNCIS_DATA_ROOTS is not set" in refusals(study(outside))[f"{place}.{field}"]


def test_a_file_below_a_condition_is_judged(roots):
    search = {
        "model.type": choices("digits_rcnn", "maskrcnn_resnet50_fpn"),
        "model.trainable_layers": choices(3, when={"model.type": "maskrcnn_resnet50_fpn"}),
        "model.weights": choices("none", "out.pt", when={"model.type": "maskrcnn_resnet50_fpn"}),
    }
    for sampler in ({"type": "grid"}, {"type": "random", "configurations": 3}):
        assert [*refusals({**SPEC, "search": search, "sampler": sampler}, data_roots=roots)] == ["search.model.weights"]


def test_a_link_is_judged_by_what_it_leads_to(roots):
    (roots[0] / "loop.pt").symlink_to(roots[0] / "loop.pt")
    (roots[0] / "linked.pt").symlink_to("/etc/passwd")
    (roots[0] / "renamed.pt").symlink_to(roots[0] / "code.pkl")
    for name in ("linked.pt", "renamed.pt", "loop.pt"):
        base = {"model": {"type": "digits_rcnn", "weights": f"in/{name}"}}
        assert [*refusals({**SPEC, "base": base}, data_roots=roots)] == ["base.model.weights"]


def test_weights_as_safetensors_are_refused_with_the_way_to_save_them_as_torch_does(roots):
    base = {"model": {"type": "digits_rcnn", "weights": "in/weights.safetensors"}}
    (said,) = refusals({**SPEC, "base": base}, data_roots=roots).values()
    assert said.startswith("must name a file that ends in .pt or .pth")
    assert said.endswith("torch.save(safetensors.torch.load_file(NAME), OTHER)")


@pytest.mark.parametrize(
    "name", ["../../secret.png", "/etc/passwd", "linked.png", "way/secret.png", "..\\..\\secret.png"]
)
def test_an_annotation_file_names_images_below_the_data_roots_only(roots, tmp_path, monkeypatch, name):
    """The driver of a study judges that, as the service reads no annotations when a study is sent."""
    images = roots[0] / "images"
    images.mkdir()
    (tmp_path / "secret.png").write_bytes(b"secret")
    (images / "fine.png").write_bytes(b"image")
    (images / "linked.png").symlink_to(tmp_path / "secret.png")
    (images / "way").symlink_to(tmp_path)
    (roots[0] / "train.json").write_text(json.dumps({"images": [{"file_name": "fine.png"}, {"file_name": name}]}))
    train = roots[0] / "train.json"
    data = CocoData(images=images, train=train, test=train)
    assert set(identify(data, ("train",))) == {"annotations of train", "images of train"}  # without roots: as before
    monkeypatch.setenv("LNCIS_DATA_ROOTS", f"{tmp_path / 'other'}:{roots[0]}")
    with pytest.raises(DataError, match=rf"^{train}: the file_name .* leads to no file below ") as caught:
        identify(data, ("train",))
    assert "\n" not in str(caught.value)
    train.write_text(json.dumps({"images": [{"file_name": "fine.png"}]}))
    assert set(identify(data, ("train",))) == {"annotations of train", "images of train"}


def test_published_weights_can_be_searched_and_text_with_a_slash_is_no_file(roots):
    search = {"model.weights": choices("none", "imagenet", "coco")}
    noise = {"type": "asymmetric", "map": {"n/a": "~x", "a": "/b"}}
    assert refusals({**SPEC, "base": {"model": RESNET, "noise": noise}, "search": search}) == {}
    letters = {"type": "digits_rcnn", "weights": "letters", "freeze": ["backbone", "rpn"]}
    assert refusals({**SPEC, "base": {"model": letters}}) == {}


def test_every_field_of_a_training_that_holds_a_file_is_known():
    """Nobody adds such a field without its limit: it is a Path, or marked by what makes its text absolute."""

    def of(schema: Any, at: str) -> Iterator[str]:
        for f in fields(schema):
            hint = get_type_hints(schema, include_extras=True)[f.name]
            marks = [part for part in every(hint) if getattr(part, "func", None) is _absolute_file]
            if marks or Path in every(hint):
                yield f"{at}{f.name}"
            for member in (one for one in every(hint) if isinstance(one, type) and is_dataclass(one)):
                yield from of(member, f"{at}{f.name}.")

    def every(hint: Any) -> list[Any]:
        return [hint, *(below for part in get_args(hint) for below in every(part))]

    splits = {f"dataset.{name}" for name in ("images", "train", "val", "test", "val_images", "test_images")}
    assert set(of(TrainConfig, "")) == splits | {WEIGHTS}


MANY = [{"loss.gamma": float(n)} for n in range(1, limits.MAX_FIRST_POINTS + 2)]


@pytest.mark.parametrize(
    ("document", "path", "said"),
    [
        ({**SPEC, "search": {"loss.gamma": choices(*range(30_000))}}, "search.loss.gamma.choices", "at most 1000"),
        ({**SPEC, "search": {f"loss.g{n}": choices(1, 2) for n in range(3000)}}, "search", "at most 100 entries"),
        ({**SPEC, "baselines": {f"b{n}": {"flip": 0.1} for n in range(5000)}}, "baselines", "at most 200 entries"),
        ({f"k{n}": 1 for n in range(20_000)}, "", "the study: must have at most 2000 entries"),
        ({"base": {f"k{n}": 1 for n in range(15_000)}}, "base", "at most 2000 entries"),
        ({**SPEC, "sampler": {"type": "tpe", "configurations": 2000, "first": MANY}}, "sampler.first", "at most 1000"),
        ({**SPEC, "seeds": list(range(20_000))}, "seeds", "at most 10000 entries"),
        ({**SPEC, "folds": 10**6, "seeds": list(range(1000))}, "search", "asks for 300000 trials"),
        ({**SPEC, "search": {f"a.b{n}": choices(*range(1000)) for n in range(100)}}, "search", "asks for 2e+300"),
        ({**SPEC, "base": {"schedule": {"epochs": "20000"}}}, "base.schedule.epochs", "at most 10000 here but got"),
        ({**SPEC, "base": {"batch_size": 5000}}, "base.batch_size", "at most 1024"),
        ({**SPEC, "base": {"model": {**RESNET, "max_size": 10**6}}}, "base.model.max_size", "at most 4096"),
        ({**SPEC, "base": {"dataset": {"type": "digits", "val_scenes": 10**9}}}, "base.dataset.val_scenes", "10000"),
        ({**SPEC, "search": {"batch_size": choices(4, 5000)}}, "search.batch_size", "at most 1024"),
        ({**SPEC, "baselines": {"x": {"schedule": {"epochs": 10**5}}}}, "baselines.x.schedule.epochs", "at most 10000"),
        (
            {
                **SPEC,
                "search": {"batch_size": {"type": "int", "low": 1, "high": 10**6}},
                "sampler": {"type": "random", "configurations": 2},
            },
            "search.batch_size",
            "at most 1024",
        ),
        ({**SPEC, "resources": {"cpus_per_worker": float("inf")}}, "resources.cpus_per_worker", "at most 1024"),
    ],
)
def test_what_is_too_much_is_refused_at_once(document, path, said):
    begun = time.process_time()
    assert said in refusals(document)[path]
    assert time.process_time() - begun < 0.5


def test_a_space_of_many_values_is_no_study_of_many_trials():
    search = {f"optimizer.{name}": choices(*(n / 2000 for n in range(1, 1001))) for name in ("lr", "weight_decay")}
    study = {**SPEC, "search": search, "sampler": {"type": "tpe", "configurations": 5}, "seeds": list(range(20))}
    assert refusals(study) == {}
    assert bodies.takes_long(study)
    assert not bodies.takes_long(SPEC)


def test_each_of_two_thousand_mistakes_costs_little_and_few_are_listed():
    begun = time.process_time()
    with pytest.raises(ConfigError) as caught:
        bodies.to_spec({f"k{n}": "x" * 100 for n in range(2000)}, Settings())
    answer = problems._of(caught.value)
    assert time.process_time() - begun < 0.5
    told = json.loads(bytes(answer.body))
    assert len(told["errors"]) == problems.MAX_ERRORS
    assert len(answer.body) < 64_000


def test_a_preset_is_read_again_when_one_of_its_files_changed(tmp_path):
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "r.yaml").write_text("flip: 0.5\n")
    (tmp_path / "mine.yaml").write_text("name: x\nrecipes: [recipes/r.yaml]\nsearch: {flip: {choices: [0.1]}}\n")
    assert presets.presets(tmp_path)["mine"]["base"] == {"flip": 0.5}
    assert presets.presets(tmp_path)["mine"] is presets.presets(tmp_path)["mine"]
    (tmp_path / "recipes" / "r.yaml").write_text("flip: 0.25\n")
    assert presets.presets(tmp_path)["mine"]["base"] == {"flip": 0.25}


@pytest.mark.processes
def test_a_giant_that_is_planned_takes_nothing_from_other_plans(tmp_path, monkeypatch):
    """Its time is up first; meanwhile and afterwards the plans of others come."""
    giant = {**SPEC, "search": {"loss.gamma": choices(*range(1, 1001))}, "seeds": list(range(10))}
    giant["base"] = {"schedule": {"epochs": 10_000, "evaluate_every": 10_000}}
    planner = plans.Planner(tmp_path)
    specs = {name: bodies.to_spec(body, Settings()) for name, body in (("giant", giant), ("small", SPEC))}

    async def plan(name: str, user: str) -> tuple[str, float]:
        spec, begun = specs[name], time.monotonic()
        try:
            await planner.plan(spec, documents.plain(documents.dump(spec)), user=user)
        except problems.Problem as refusal:
            return f"{name} {refusal.status}", time.monotonic() - begun
        return name, time.monotonic() - begun

    async def ask() -> list[tuple[str, float]]:
        await plan("small", "bilal")  # its process has started
        monkeypatch.setattr(plans, "PLAN_TIMEOUT_SECONDS", 15.0)
        large = asyncio.create_task(plan("giant", "anna"))
        await asyncio.sleep(0)
        return [await plan("small", "bilal"), await large, await plan("small", "bilal")]

    (first, waited), (large, took), (second, _) = asyncio.run(ask())
    planner.close()
    assert (first, second) == ("small", "small")
    assert waited < took
    assert large in ("giant", "giant 503")
