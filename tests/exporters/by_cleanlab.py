"""What cleanlab says of labels: its scores of annotations whose prediction lies in their own box.

Writes suspects/cleanlab.json: given labels, probabilities, and cleanlab's scores of them. Run by hand, see README.md.
"""

import json
from importlib.metadata import version
from pathlib import Path

import numpy as np
from cleanlab.object_detection.rank import compute_swap_box_scores
from cleanlab.rank import get_label_quality_scores

VERSION = "2.9.0"
LABELS, CLASSES = 40, 5
BOX = [10.0, 10.0, 60.0, 60.0]

assert version("cleanlab") == VERSION, version("cleanlab")
rng = np.random.default_rng(0)
probabilities = rng.dirichlet([0.1] * CLASSES, LABELS).round(6)
probabilities[:, -1] = 1 - probabilities[:, :-1].sum(axis=1)
given = rng.integers(0, CLASSES, LABELS)


def predicted(row: np.ndarray) -> np.ndarray:
    """Return a detector's answer for an image: for each class its boxes and scores, here of the best class alone."""
    answer = [np.zeros((0, 5)) for _ in range(CLASSES)]
    answer[row.argmax()] = np.array([[*BOX, row.max()]])
    return np.array(answer, dtype=object)


# one image more, whose boxes hardly meet: the least similarity of all is the score of what was swapped for certain
labels = [{"bboxes": np.array([BOX]), "labels": np.array([k]), "image_name": "x"} for k in given]
labels.append({"bboxes": np.array([[50.0, 50.0, 99.0, 99.0]]), "labels": np.array([0]), "image_name": "x"})
predictions = [predicted(row) for row in [*probabilities, np.eye(CLASSES)[1]]]
swap = compute_swap_box_scores(labels=labels, predictions=predictions)[:LABELS]
scores = {
    "self_confidence": get_label_quality_scores(given, probabilities, method="self_confidence"),
    "normalized_margin": get_label_quality_scores(given, probabilities, method="normalized_margin"),
    "swap": np.concatenate(swap),
}
document = {
    "cleanlab": VERSION,
    "given": given.tolist(),
    "probabilities": probabilities.tolist(),
    "scores": {name: values.astype(float).tolist() for name, values in scores.items()},
}
path = Path(__file__).parent / "suspects" / "cleanlab.json"
path.write_text(json.dumps(document) + "\n")
