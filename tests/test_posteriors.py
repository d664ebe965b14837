"""What the box head says at the annotations' own boxes, against torchvision's own path there."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from lncis import datasets
from lncis.config import DigitsRCNN, Fold
from lncis.datasets import folds
from lncis.detection import posteriors
from lncis.detection.mask_rcnn.models import build_model
from lncis.errors import DataError
from lncis.suspects.judging import scoring
from lncis.suspects.judging.scoring import Scorer

CPU = torch.device("cpu")


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = build_model(DigitsRCNN(min_size=64, max_size=64), 10)
    model.roi_heads.box_predictor.cls_score.weight.data *= 30
    return model.eval()


@pytest.fixture
def dataset(tiny, digits_cache):
    return datasets.load(tiny).train


def test_logits_are_those_of_torchvisions_heads_given_the_boxes_as_proposals(model, dataset):
    image, target = dataset[0]
    logits = posteriors.class_logits(model, image, target["boxes"])
    seen = []
    model.roi_heads.box_predictor.register_forward_hook(lambda module, inputs, output: seen.append(output[0]))
    batch, targets = model.transform([image], [{"boxes": target["boxes"]}])
    model.rpn.forward = lambda images, features, targets=None: ([scaled[0]["boxes"]], {})
    scaled = targets
    with torch.inference_mode():
        model([image])
    assert torch.equal(seen[-1], logits)
    assert batch.image_sizes == [(64, 64)]


def test_every_annotation_with_a_mask_is_there_with_its_label(model, dataset):
    found = posteriors.posteriors(model, dataset, CPU)
    label = {a["id"]: a["category_id"] - 1 for a in dataset.document["annotations"]}
    assert sorted(found.annotation_ids) == sorted(label)
    assert [label[i] for i in found.annotation_ids] == found.given.tolist()
    assert found.probabilities.sum(axis=1) == pytest.approx(np.ones(len(found)))
    image, target = dataset[0]
    whole = posteriors.class_logits(model, image, target["boxes"]).softmax(dim=1).detach().double().numpy()
    rows = [found.annotation_ids.tolist().index(i) for i in target["annotation_ids"].tolist()]
    assert found.probabilities[rows] == pytest.approx(whole[:, 1:] / (1 - whole[:, :1]), abs=1e-6)
    assert found.background[rows] == pytest.approx(whole[:, 0], abs=1e-6)
    of_given = whole[np.arange(len(whole)), 1 + found.given[rows]]
    assert found.cross_entropy[rows] == pytest.approx(-np.log(of_given), rel=1e-4)


def test_mirrored_images_are_asked_at_mirrored_boxes(model, dataset):
    image, target = dataset[0]
    boxes = target["boxes"]
    straight = posteriors.class_logits(model, image, boxes).softmax(dim=1)
    width = image.shape[-1]
    mirrored = boxes.clone()
    mirrored[:, 0], mirrored[:, 2] = width - boxes[:, 2], width - boxes[:, 0]
    turned = posteriors.class_logits(model, image.flip(-1), mirrored).softmax(dim=1)
    both = ((straight + turned) / 2).detach().double().numpy()
    found = posteriors.posteriors(model, dataset.of_images({int(target["image_id"])}), CPU, flipped=True)
    assert found.background == pytest.approx(both[:, 0], abs=1e-6)


def test_several_models_are_their_geometric_mean_and_parts_are_joined(model, dataset):
    one = posteriors.posteriors(model, dataset, CPU)
    other = replace(one, probabilities=one.probabilities[:, ::-1].copy())
    mean = posteriors.mean_of([one, other])
    wanted = np.sqrt(one.probabilities * other.probabilities)
    assert mean.probabilities == pytest.approx(wanted / wanted.sum(axis=1, keepdims=True))
    both = posteriors.joined([one, other])
    assert len(both) == 2 * len(one)
    assert np.array_equal(posteriors.chosen(both, np.arange(len(both)) < len(one)).given, one.given)


def test_data_without_an_annotation_have_no_posteriors(model, dataset):
    assert len(posteriors.posteriors(model, dataset.of_images(set()), CPU)) == 0


def test_each_label_is_judged_by_all_models_of_any_split_that_never_saw_it(model, dataset, tiny):
    def scorer(number: int, seed: int) -> Scorer:
        def load():
            torch.manual_seed(100 * seed + number)
            made = build_model(DigitsRCNN(min_size=64, max_size=64), 10)
            made.roi_heads.box_predictor.cls_score.weight.data *= 30
            return made.eval()

        config = replace(tiny, fold=Fold(number=number, of=2, seed=seed))
        return Scorer(name=f"{seed}-{number}", config=config, model=load)

    scorers = [scorer(number, seed) for seed in (0, 1) for number in (0, 1)]
    scored = scoring.score(scorers, dataset, device=CPU)
    assert set(scored.by.values()) == {"out of fold: 2 models"}
    logs = np.zeros(scored.found.probabilities.shape)
    where = {i: row for row, i in enumerate(scored.found.annotation_ids.tolist())}
    for one in scorers:
        said = posteriors.posteriors(one.model(), folds.within(dataset, one.config.fold), CPU)
        logs[[where[i] for i in said.annotation_ids.tolist()]] += np.log(said.probabilities)
    powers = np.exp(logs / 2)
    assert scored.found.probabilities == pytest.approx(powers / powers.sum(axis=1, keepdims=True))
    scored_so_far = list[int]()
    with pytest.raises(DataError, match=r"no model left out fold 1 of 2 \(split by seed 1\)"):
        scoring.score(scorers[:-1], dataset, device=CPU, on_progress=lambda *said: scored_so_far.append(said))
    assert scored_so_far == [], "said before anything is scored"


def test_a_model_that_saw_what_it_should_have_left_out_is_refused(model, dataset, tiny):
    def trained_on(number: int, held: int) -> Scorer:
        kept = folds.without(dataset, Fold(number=held, of=2))
        ids = frozenset(annotation["id"] for annotation in kept.document["annotations"])
        config = replace(tiny, fold=Fold(number=number, of=2))
        return Scorer(name=f"fold{number}", config=config, model=lambda: model, trained_on=ids)

    assert scoring.score([trained_on(0, 0), trained_on(1, 1)], dataset, device=CPU).remark == ""
    labels = len(folds.within(dataset, Fold(number=1, of=2)).document["annotations"])
    with pytest.raises(DataError, match=f"fold1: was trained on {labels} of the labels of fold 1, .* changed since"):
        scoring.score([trained_on(0, 0), trained_on(1, 0)], dataset, device=CPU)
