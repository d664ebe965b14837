"""What a tool finds in the exports of a list of suspects, kept beside them as read_by_TOOL.json.

    python tests/exporters/read_suspects.py datumaro|fiftyone|label_studio   # in the environment of the tool

The exports in suspects/ are those of `suspect_documents.py`; `test_suspects_exports.py` writes them again and compares.
"""

import importlib.metadata
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

HERE = Path(__file__).parent / "suspects"
COCO, TASKS, INTERFACE = HERE / "enriched.json", HERE / "tasks.json", HERE / "tasks.xml"


def draw_images(folder: Path) -> None:
    """Write an image of the right size for each that the COCO file lists."""
    folder.mkdir(parents=True)
    for image in json.loads(COCO.read_text("utf-8"))["images"]:
        Image.new("RGB", (image["width"], image["height"])).save(folder / image["file_name"])


def by_datumaro() -> list[dict[str, Any]]:
    from datumaro.components.annotation import AnnotationType
    from datumaro.components.dataset import Dataset

    with tempfile.TemporaryDirectory() as folder:  # it wants its own names
        (Path(folder) / "annotations").mkdir()
        (Path(folder) / "annotations" / "instances_default.json").write_bytes(COCO.read_bytes())
        draw_images(Path(folder) / "images" / "default")
        dataset = Dataset.import_from(folder, "coco_instances")
        names = dataset.categories()[AnnotationType.label]
        return [
            {"id": a.id, "type": a.type.name, "label": names[a.label].name, "attributes": dict(a.attributes)}
            for item in dataset
            for a in item.annotations
        ]


def by_fiftyone() -> list[dict[str, Any]]:
    """By the importer that Dataset.from_dir calls: a Dataset itself needs MongoDB."""
    import fiftyone.utils.coco as fouc

    with tempfile.TemporaryDirectory() as folder:
        draw_images(Path(folder) / "data")
        importer = fouc.COCODetectionDatasetImporter(
            data_path=f"{folder}/data", labels_path=str(COCO), label_types="segmentations"
        )
        return list(detections(importer))


def detections(importer: Any) -> Iterator[dict[str, Any]]:
    with importer:
        for _, metadata, label in importer:
            for one in getattr(label, "detections", None) or []:
                mask = one.to_segmentation(frame_size=(metadata.width, metadata.height), target=1).mask
                attributes = {name: value for name, value in one.iter_attributes() if name != "tags"}
                yield {"label": one.label, "pixels": int((mask > 0).sum()), "attributes": attributes}


def by_label_studio() -> list[dict[str, Any]]:
    """By its check of predictions, and by its converter of brushes, which reads annotations."""
    from label_studio_sdk.converter import Converter
    from label_studio_sdk.converter.brush import mask2rle
    from label_studio_sdk.label_interface import LabelInterface

    config = INTERFACE.read_text("utf-8")
    interface, tasks = LabelInterface(config), json.loads(TASKS.read_text("utf-8"))
    interface.validate()
    found = []
    for number, task in enumerate(tasks, start=1):
        (prediction,) = task["predictions"]
        for region in prediction["result"]:
            # one region at a time: the converter names its files by task and label
            one = {"id": number, "data": task["data"], "annotations": [{"id": 1, "result": [region]}]}
            with tempfile.TemporaryDirectory() as folder:
                exported = Path(folder) / "project.json"
                exported.write_text(json.dumps([one]))
                converter = Converter(config, folder)
                converter.convert(str(exported), folder, "BRUSH_TO_NUMPY", is_dir=False)
                (written,) = Path(folder).glob("*.npy")
                mask = np.load(written)
            found.append(
                {
                    "image": task["data"]["image"],
                    "errors": interface.validate_prediction(prediction, return_errors=True),
                    "label": region["value"]["brushlabels"],
                    "score": region["score"],
                    "mask": ["".join(map(str, row)) for row in (mask > 127).astype(int)],
                    "its_own_encoding": mask2rle(mask) == region["value"]["rle"],
                }
            )
    return found


READERS = {
    "datumaro": (by_datumaro, "datumaro"),
    "fiftyone": (by_fiftyone, "fiftyone"),
    "label_studio": (by_label_studio, "label-studio-sdk"),
}


def main() -> None:
    tool = sys.argv[1]
    reader, distribution = READERS[tool]
    version = importlib.metadata.version(distribution)
    content = {"tool": f"{distribution} {version}", "found": reader()}
    text = json.dumps(content, indent=1, ensure_ascii=False, sort_keys=True)
    (HERE / f"read_by_{tool}.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
