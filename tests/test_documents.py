import math
from dataclasses import fields
from typing import get_args

import pytest
import yaml

from lncis import documents
from lncis.config import (
    AsymmetricNoise,
    ClassLossConfig,
    CrossEntropyLoss,
    DigitsData,
    LncisLoss,
    MaskRCNNResNet50FPN,
    NoNoise,
    Schedule,
    SGDOptimizer,
    TrainConfig,
    Workers,
)
from lncis.errors import ConfigError
from lncis.studies.spec import StudySpec

LOSS_NAMES = ", ".join(repr(loss().type) for loss in get_args(get_args(ClassLossConfig)[0]))
ELABORATE = TrainConfig(
    dataset=DigitsData(train_scenes=6, seed=2),
    noise=AsymmetricNoise(rate=0.25, seed=3),
    model=MaskRCNNResNet50FPN(min_size=64, max_size=96),
    loss=LncisLoss(gamma=math.inf, A=-9.21),
    schedule=Schedule(epochs=9, stage1_epochs=4, lr_drops=(6, 8), warmup_iterations=10, evaluate_every=2),
    optimizer=SGDOptimizer(lr=1e-4, weight_decay=0),
    batch_size=2,
    precision="bf16",
    seed=11,
)


def problems(document, schema=TrainConfig) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        documents.parse(schema, document, source="here.yaml")
    assert str(caught.value).splitlines() == [f"here.yaml: {problem}" for problem in caught.value.problems]
    return caught.value.problems


def load(tmp_path, text: str) -> TrainConfig:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    return documents.load(TrainConfig, path)


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ({"batchsize": 1}, "batchsize: no such field; did you mean batch_size?"),
        (
            {"dataset": {"type": "digits", "train_scene": 3}},
            "dataset.train_scene: no such field; did you mean train_scenes?",
        ),
        ({"noise": {"type": "symmetric", "rte": 0.1}}, "noise.rte: no such field; did you mean rate?"),
        ({"model": {"type": "digits_rcnn", "minsize": 64}}, "model.minsize: no such field; did you mean min_size?"),
        ({"loss": {"type": "lncis", "gama": 5}}, "loss.gama: no such field; did you mean gamma?"),
        (
            {"loss": {"type": "cross_entropy", "gamma": 5}},
            "loss.gamma: no such field with type cross_entropy, only with lncis",
        ),
        ({"schedule": {"epoch": 5}}, "schedule.epoch: no such field; did you mean epochs?"),
        (
            {"optimizer": {"type": "adamw", "momentum": 0}},
            "optimizer.momentum: no such field with type adamw, only with sgd",
        ),
        ({"loss": {"type": "lncis", "name": "lncis"}}, "loss.name: no such field; the tag is called type"),
        (
            {"optimizer": {"type": "sgd", "weight_decai": 0}},
            "optimizer.weight_decai: no such field; did you mean weight_decay?",
        ),
    ],
)
def test_unknown_key_names_the_near_field(document, expected):
    assert problems(document) == [expected]


def test_unknown_key_of_workers_names_the_near_field():
    assert problems({"num_worker": 2}, Workers) == ["num_worker: no such field; did you mean num_workers?"]


def test_unknown_key_far_from_all_lists_what_is_known():
    (problem,) = problems({"xyz": 1})
    assert problem == f"xyz: no such field; known are {', '.join(f.name for f in fields(TrainConfig))}"


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        (
            {"schedule": {"epochs": 6, "stage1_epochs": 6}},
            "schedule: stage1_epochs must be below epochs (6) but got 6",
        ),
        ({"loss": {"type": "lncis", "A": 0}}, "loss.A: must be less than 0 but got 0"),
        ({"loss": {"type": "lncis", "A": 2.5}}, "loss.A: must be less than 0 but got 2.5"),
        ({"loss": {"type": "lncis", "gamma": 0}}, "loss.gamma: must be a number greater than 0, or auto but got 0"),
        ({"loss": {"type": "lncis", "gamma": -6}}, "loss.gamma: must be a number greater than 0, or auto but got -6"),
        ({"noise": {"type": "symmetric", "rate": 1.5}}, "noise.rate: must be less than or equal to 1 but got 1.5"),
        (
            {"noise": {"type": "asymmetric", "rate": -0.5}},
            "noise.rate: must be greater than or equal to 0 but got -0.5",
        ),
        ({"loss": {"type": "lnci"}}, f"loss.type: must be one of {LOSS_NAMES} but got 'lnci'"),
        ({"dataset": {"type": "voc"}}, "dataset.type: must be one of 'digits', 'coco' but got 'voc'"),
        ({"precision": "fp8"}, "precision: must be 'fp32' or 'bf16' but got 'fp8'"),
        ({"schedule": 5}, "schedule: must be a mapping of its fields but got 5"),
        ({"batch_size": None}, "batch_size: must be a valid integer but got None"),
    ],
)
def test_one_line_names_path_requirement_and_value(document, expected):
    assert problems(document) == [expected]


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ({"loss": {"gamma": 5}}, f"loss: needs type, one of {LOSS_NAMES}"),
        ({"loss": {"name": "lncis"}}, f"loss: needs type, one of {LOSS_NAMES}; write type for name"),
        ({"optimizer": {"lr": 1e-3}}, "optimizer: needs type, one of 'adamw', 'sgd'"),
        (
            {"noise": {"kind": "none"}},
            "noise: needs type, one of 'none', 'symmetric', 'asymmetric', 'matrix', 'release-compat'; "
            "write type for kind",
        ),
    ],
)
def test_a_union_without_its_tag_says_which_there_are(document, expected):
    assert problems(document) == [expected]


def test_all_mistakes_are_reported_at_once():
    found = problems(
        {
            "noise": {"type": "symmetrc"},
            "optimizer": {"type": "sgd", "lr": 0},
            "loss": {"type": "lncis", "gama": 5},
            "batch_size": 0,
            "optimiser": {},
        }
    )
    assert [problem.partition(":")[0] for problem in sorted(found)] == [
        "batch_size",
        "loss.gama",
        "noise.type",
        "optimiser",
        "optimizer.lr",
    ]


def test_source_and_problems_are_kept_on_the_error():
    with pytest.raises(ConfigError, match=r"^from request: seed: must be") as caught:
        documents.parse(TrainConfig, {"seed": -1}, source="from request")
    assert caught.value.source == "from request"
    assert caught.value.exit_code == 2
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize("config", [TrainConfig(), ELABORATE, TrainConfig(loss=CrossEntropyLoss())])
def test_dump_parse_and_yaml_round_trip(config, tmp_path):
    assert documents.parse(TrainConfig, documents.dump(config), source="dump") == config
    assert load(tmp_path, documents.to_yaml(config)) == config


def test_dump_is_plain():
    def plain(value):
        if isinstance(value, dict):
            return all(type(k) is str and plain(v) for k, v in value.items())
        if isinstance(value, list):
            return all(plain(v) for v in value)
        return value is None or type(value) in (bool, int, float, str)

    assert plain(documents.dump(ELABORATE))


def test_infinite_gamma_is_written_as_yaml_writes_it(tmp_path):
    assert "gamma: .inf" in documents.to_yaml(ELABORATE)
    assert load(tmp_path, "loss: {type: lncis, gamma: .inf}").loss == LncisLoss(gamma=math.inf)


@pytest.mark.parametrize("text", ["1e-4", "1.0e-4", "0.0001"])
def test_numbers_may_be_written_without_a_dot(tmp_path, text):
    assert load(tmp_path, f"optimizer: {{type: adamw, lr: {text}}}").optimizer.lr == 1e-4


def test_comment_precedes_the_yaml(tmp_path):
    text = documents.to_yaml(TrainConfig(), comment="what it is\nhow it came")
    assert text.startswith("# what it is\n# how it came\ndataset:\n")
    assert load(tmp_path, text) == TrainConfig()


def test_a_comment_cannot_make_the_file_unreadable(tmp_path):
    assert load(tmp_path, documents.to_yaml(TrainConfig(), comment="of\x07 a\x1b[31m study")) == TrainConfig()


def test_class_names_are_text_as_they_are_written(tmp_path):
    text = "noise: {type: asymmetric, rate: 0.2, map: {no: on, 7: 8, 007: y, 1.10: no}}"
    assert load(tmp_path, text).noise.map == {"no": "on", "7": "8", "007": "y", "1.10": "no"}
    text = "noise: {type: matrix, classes: [no, y, 7], rows: [[1, 0, 0], [0, 1, 0], [0, 0, 1]]}"
    assert load(tmp_path, text).noise.classes == ("no", "y", "7")
    config = load(tmp_path, text)
    assert load(tmp_path, documents.to_yaml(config)) == config


def test_a_json_file_is_read_as_json(tmp_path):
    path = tmp_path / "config.json"
    path.write_bytes(b'\xef\xbb\xbf{"seed": 3,\r\n "precision": "bf16"}')
    assert documents.load(TrainConfig, path) == TrainConfig(seed=3, precision="bf16")
    path.write_text('{"seed": 3,\n "seed": 4}')
    with pytest.raises(ConfigError, match=r"config\.json: seed: stands in line 1 and in line 2; keep one of the two$"):
        documents.load(TrainConfig, path)


def test_a_stored_config_with_a_key_twice_is_refused(tmp_path):
    path = tmp_path / "config.yaml"
    documents.claim(tmp_path, TrainConfig())
    path.write_text(f"{path.read_text()}seed: 1\n")
    with pytest.raises(ConfigError, match=r"config\.yaml: seed: stands in line \d+ and in line \d+"):
        documents.claim(tmp_path, TrainConfig())


def test_missing_file(tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere\.yaml: no such file; check the path$"):
        documents.load(TrainConfig, tmp_path / "nowhere.yaml")


def test_folder_in_the_place_of_a_file(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read: "):
        documents.load(TrainConfig, tmp_path)


def test_file_that_is_no_text(tmp_path):
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="is UTF-16 or UTF-32; save it as UTF-8"):
        documents.load(TrainConfig, tmp_path / "binary.yaml")


@pytest.mark.parametrize("text", ["a: [1, 2", "a: b: c", "\t- x"])
def test_not_yaml_is_one_line(tmp_path, text):
    with pytest.raises(ConfigError, match="is not YAML: ") as caught:
        load(tmp_path, text)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("text", ["- 1\n- 2", "", "12", "just words"])
def test_document_must_be_a_mapping(tmp_path, text):
    with pytest.raises(ConfigError, match="must hold a mapping of fields but holds "):
        load(tmp_path, text)


def test_yaml_does_not_run_code(tmp_path):
    with pytest.raises(ConfigError, match=r"line 1: must not use the tag !!python/object/apply:os\.getpid;"):
        load(tmp_path, "seed: !!python/object/apply:os.getpid []")


def test_overrides_reach_nested_fields_and_leave_the_original():
    document = {"loss": {"type": "lncis", "gamma": 6}, "seed": 0}
    found = documents.with_overrides(document, {"loss.gamma": 5, "schedule.epochs": 4, "seed": 1})
    assert found == {"loss": {"type": "lncis", "gamma": 5}, "schedule": {"epochs": 4}, "seed": 1}
    assert document == {"loss": {"type": "lncis", "gamma": 6}, "seed": 0}


def test_override_of_a_whole_part_replaces_it():
    document = {"loss": {"type": "lncis", "gamma": 6}}
    assert documents.with_overrides(document, {"loss": {"type": "cross_entropy"}}) == {
        "loss": {"type": "cross_entropy"}
    }


UNION = {"loss": {"type": "lncis", "gamma": 6.0, "A": -4.0}, "optimizer": {"type": "adamw", "lr": 0.1}}


@pytest.mark.parametrize(
    ("overrides", "loss"),
    [
        ({"loss.type": "cross_entropy"}, {"type": "cross_entropy"}),
        ({"loss.type": "lncis"}, UNION["loss"]),
        ({"loss.type": "lncis", "loss.gamma": 5.0}, {"type": "lncis", "gamma": 5.0, "A": -4.0}),
        ({"loss.A": -1.0, "loss.type": "other"}, {"type": "other", "A": -1.0}),
        ({"loss": {"type": "cross_entropy"}}, {"type": "cross_entropy"}),
    ],
)
def test_another_tag_begins_a_new_branch(overrides, loss):
    found = documents.with_overrides(UNION, overrides, schema=TrainConfig)
    assert found == {**UNION, "loss": loss}
    assert UNION["loss"]["gamma"] == 6.0


def test_a_new_branch_keeps_what_both_inherit():
    document = documents.dump(ELABORATE)
    overrides = {"noise.type": "none", "optimizer.type": "adamw", "model.type": "digits_rcnn"}
    found = documents.parse(TrainConfig, documents.with_overrides(document, overrides, schema=TrainConfig), source="x")
    assert found.noise == NoNoise()
    for new, old in ((found.optimizer, ELABORATE.optimizer), (found.model, ELABORATE.model)):
        base = {field.name for field in fields(type(old).__mro__[1])} - {"type"}
        for field in fields(new):
            wanted = getattr(old, field.name) if field.name in base else field.default
            if field.name != "type":
                assert getattr(new, field.name) == getattr(wanted, "default", wanted), field.name


def test_what_looks_like_a_tag_but_is_none_replaces_one_field():
    found = documents.with_overrides(UNION, {"schedule.type": "x", "optimizer.name": "y"}, schema=TrainConfig)
    assert found == {"loss": UNION["loss"], "optimizer": {**UNION["optimizer"], "name": "y"}, "schedule": {"type": "x"}}
    assert documents.with_overrides(UNION, {"loss.type": "cross_entropy"})["loss"]["gamma"] == 6.0, "without a schema"


def test_tags_below_other_parts_are_found():
    study = {"base": UNION, "sampler": {"type": "tpe", "configurations": 3}}
    found = documents.with_overrides(
        study, {"sampler.type": "grid", "base.loss.type": "cross_entropy"}, schema=StudySpec
    )
    assert found["sampler"] == {"type": "grid"}
    assert found["base"]["loss"] == {"type": "cross_entropy"}
    found = documents.with_overrides(study, {"base.loss.A": -1.0, "base.loss.type": "other"}, schema=StudySpec)
    assert found["base"]["loss"] == {"type": "other", "A": -1.0}, "whatever the order"


@pytest.mark.parametrize(
    ("above", "expected"),
    [
        ({"loss": {"gamma": 5.0}}, {"loss": {"type": "lncis", "gamma": 5.0, "A": -4.0}}),
        ({"loss": {"A": -1.0, "type": "other"}}, {"loss": {"A": -1.0, "type": "other"}}),
        ({"loss": {"type": "lncis"}}, {}),
        ({"loss": {}, "flip": 0.5}, {"flip": 0.5}),
        ({"loss": 5}, {"loss": 5}),
        (
            {"noise": {"type": "asymmetric", "map": {1: 7, "a.b": 8}}},
            {"noise": {"type": "asymmetric", "map": {1: 7, "a.b": 8}}},
        ),
    ],
)
def test_one_mapping_over_another(above, expected):
    assert documents.overlaid(UNION, above, schema=TrainConfig) == {**UNION, **expected}


def test_an_override_replaces_a_mapping_and_a_layer_merges_with_it():
    below, above = {"search": {"loss.A": {"type": "float", "low": 0}}}, {"search": {"loss.gamma": {"type": "int"}}}
    assert documents.with_overrides(below, above, schema=StudySpec) == above
    assert documents.overlaid(below, above, schema=StudySpec) == {"search": below["search"] | above["search"]}


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ({"a": {"b": 1, "c": [2]}}, {"a": {"b": 1, "c": [2]}}, []),
        ({"a": {"b": 1}, "s": "x"}, {"a": {"b": 2}, "s": "y"}, [("a.b", 1, 2), ("s", "x", "y")]),
        ({"a": 1, "b": None}, {"c": {"d": 0}}, [("a", 1, None), ("b", None, None), ("c", None, {"d": 0})]),
        ({"a": {"x": 1}}, {"a": [1]}, [("a", {"x": 1}, [1])]),
    ],
)
def test_differences_of_documents(before, after, expected):
    found = documents.differences(before, after)
    assert found == [{"path": path, "earlier": was, "now": now} for path, was, now in expected]


def test_infinity_among_the_choices_of_a_study_survives_its_spec_yaml():
    text = (
        "name: x\nsearch: {loss.gamma: {type: categorical, choices: [6.0, .inf]}}\nbaselines: {b: {loss.gamma: .inf}}"
    )
    spec = documents.parse(StudySpec, yaml.safe_load(text), source="x")
    again = documents.parse(StudySpec, yaml.safe_load(documents.to_yaml(spec)), source="x")
    assert again == spec
    assert again.search["loss.gamma"].choices == [6.0, math.inf]
    assert again.baselines == {"b": {"loss.gamma": math.inf}}
