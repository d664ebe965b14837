"""The list of suspects: every annotation with the probability that its label is wrong, the most probable first."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lncis.coco.exporters import ORIGINAL_ID
from lncis.detection.posteriors import Posteriors
from lncis.noise import Document
from lncis.noise.noise_model import NoiseModel
from lncis.suspects.judging.losses import Recorded
from lncis.suspects.suspect import Suspect


def suspects_of(
    document: Document,
    found: Posteriors,
    noise: NoiseModel,
    scored_by: Mapping[int, str],
    recorded: Mapping[int, Recorded] = MappingProxyType({}),
) -> list[Suspect]:
    """Return the annotations of a document that were scored, ranked.

    `scored_by` says of each annotation id which models scored it, `recorded` what trainings recorded of it. Ids come
    back as the user's file has them.
    """
    true = noise.true_class(found.probabilities, found.given)
    rows = np.arange(len(found))
    wrong = 1 - true[rows, found.given]
    others = true.copy()
    others[rows, found.given] = -1.0
    suggested = np.where(others.max(axis=1) > true[rows, found.given], others.argmax(axis=1), found.given)
    margins = others.max(axis=1) - true[rows, found.given]
    categories = sorted(document["categories"], key=lambda category: int(category["id"]))
    names = [category["name"] for category in categories]
    name_of = {category["id"]: category["name"] for category in categories}
    annotations = {annotation["id"]: annotation for annotation in document["annotations"]}
    images = {image["id"]: image for image in document["images"]}
    listed = []
    for rank, i in enumerate(order(wrong), start=1):
        annotation = annotations[int(found.annotation_ids[i])]
        image = images[annotation["image_id"]]
        listed.append(
            Suspect(
                rank=rank,
                annotation_id=_id_in_file(annotation),
                image_id=_id_in_file(image),
                file_name=image["file_name"],
                given=names[found.given[i]],
                suggested=names[suggested[i]],
                wrong_probability=float(wrong[i]),
                given_probability=float(found.probabilities[i, found.given[i]]),
                margin=float(margins[i]),
                scored_by=scored_by[annotation["id"]],
                **_losses(recorded.get(annotation["id"])),
                true=name_of[annotation["clean_category_id"]] if "clean_category_id" in annotation else None,
            )
        )
    return listed


def _id_in_file(entry: Mapping[str, Any]) -> int | str:
    given = entry.get(ORIGINAL_ID, entry["id"])
    return int(given) if isinstance(given, float) else given


def _losses(recorded: Recorded | None) -> dict[str, Any]:
    if recorded is None:
        return {}
    last = recorded.last if np.isfinite(recorded.last) else None
    return {"loss_mean": recorded.mean, "loss_last": last, "isolated": recorded.isolated}


def order(wrong: NDArray[np.float64]) -> Sequence[int]:
    """Return the positions of annotations, the most probably wrong first; ties in the order of the file."""
    ranked: list[int] = np.argsort(-wrong, kind="stable").tolist()
    return ranked
