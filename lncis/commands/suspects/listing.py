"""`lncis suspects`: which labels are probably wrong, by what trained models say of them."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lncis.commands.model import Gpu, Threads, torch_device
from lncis.commands.suspects import files as suspects_files
from lncis.errors import ConfigError, DataError
from lncis.terminal import PROGRESS_DELAY_SECONDS, clear_errors, console_of_plain_text, progress

if TYPE_CHECKING:
    from lncis.datasets.coco import CocoInstances
    from lncis.studies.trained import Trained

EPILOG = (
    "Then: `lncis suspects gallery` reviews a list, `lncis suspects plan` says what is left to find, `lncis suspects "
    "apply` repairs the file, `lncis suspects export` brings both to other tools; --help of each says how."
)

Runs = Annotated[list[Path], typer.Argument(help="Folders of trainings or studies on the data; of a study, its best.")]
Out = Annotated[Path, typer.Option(help="New folder for the list, its report and its figures.")]
File = Annotated[
    Path | None, typer.Option("--data", help="A COCO file of the same classes to judge in place of the training's own.")
]
Images = Annotated[Path | None, typer.Option(help="Folder of its images.")]
Truth = Annotated[
    Path | None, typer.Option(help="The same annotations with the right labels: how right the list is, is then said.")
]


def score(
    runs: Runs,
    out: Out,
    data: File = None,
    images: Images = None,
    truth: Truth = None,
    gpu: Gpu = False,
    threads: Threads = 1,
) -> None:
    """List every annotation with the probability that its label is wrong, the most probable first."""
    with clear_errors():
        if (data is None) != (images is None):
            raise ConfigError("--data, --images", ["belong together; give both, or none"])
        suspects_files.require_new(out)
        device = torch_device(gpu, threads)
        import numpy as np  # slow to load, as what follows

        from lncis.config import CocoData
        from lncis.noise import noise_model
        from lncis.studies import trained
        from lncis.suspects import tables
        from lncis.suspects.judging import losses, scores, scoring
        from lncis.suspects.report import assessment
        from lncis.suspects.truth import with_truth

        models = [found for run in runs for found in trained.find_all(run)]
        _of_one_data_set(models)
        train, others = _data(models[0], data, images)
        document = _one_document([train, *(dataset for _, dataset in others)])
        without_truth = 0
        if truth is not None:
            document, without_truth = with_truth(document, str(data or runs[0]), truth)
        scorers = [
            scoring.Scorer(
                name=str(m.path.parent),
                config=m.config,
                model=m.model,
                trained_on=losses.recorded_annotations(m.path.parent),
            )
            for m in models
        ]
        with progress(PROGRESS_DELAY_SECONDS) as show:
            if data is None:
                scored = scoring.score(scorers, train, others, device=device, on_progress=show)
            else:
                scored = scoring.score_elsewhere(scorers, train, device=device, on_progress=show)
        found = scored.found
        if len(found) == 0:
            raise DataError("the data hold no annotation with a mask; there is nothing to judge")
        noise = noise_model.estimate(found.probabilities, found.given)
        recorded = losses.of_annotations(m.path.parent for m in models)
        listed = scores.suspects_of(document, found, noise, scored.by, recorded if data is None else {})
        categories = sorted(document["categories"], key=lambda category: int(category["id"]))
        place = {category["id"]: k for k, category in enumerate(categories)}
        entries = {annotation["id"]: annotation for annotation in document["annotations"]}
        judged = [entries[i] for i in found.annotation_ids.tolist()]
        true = np.array([place.get(entry.get("clean_category_id"), assessment.UNKNOWN) for entry in judged])
        areas = np.array([entry["area"] for entry in judged], dtype=float)
        assessed = assessment.assess(found, noise, [category["name"] for category in categories], true, areas)
        dataset = models[0].config.dataset
        name = (data or (dataset.train if isinstance(dataset, CocoData) else Path(dataset.type))).name
        whole = tables.SuspectList(annotations=name, classes=assessed.classes, suspects=listed)
        suspects_files.write_found(out, whole, assessed, str(data or runs[0]), scored.remark)
        suspects_files.print_found(whole, assessed, scored.remark)
        console = console_of_plain_text()
        if without_truth:
            console.print(f"warning: {without_truth:,} annotations are not in {truth}: their truth is not known")
        console.print(f"list: {out / suspects_files.SUSPECTS}\nreport: {out / suspects_files.REPORT}", soft_wrap=True)


def _of_one_data_set(models: "list[Trained]") -> None:
    first = models[0]
    for other in models[1:]:
        if (other.config.dataset, other.config.noise) != (first.config.dataset, first.config.noise):
            raise ConfigError(
                str(other.path),
                [f"was trained on other data or labels than {first.path}; name trainings of one data set"],
            )


def _data(
    model: "Trained", file: Path | None, images: Path | None
) -> "tuple[CocoInstances, list[tuple[str, CocoInstances]]]":
    """Return the annotations to judge: those trained on, and those that were held out of the same file."""
    from lncis import datasets
    from lncis.coco import annotations
    from lncis.coco.images import ImageFiles
    from lncis.config import CocoData
    from lncis.datasets.coco import CocoInstances
    from lncis.studies.trained import require_classes

    config = model.config
    if file is not None and images is not None:
        reading = annotations.read(file)
        require_classes(model, reading.document["categories"], str(file))
        return CocoInstances(ImageFiles(images, reading.document["images"]), reading.document), []
    train = datasets.load_undivided(config)
    require_classes(model, train.document["categories"], "the data set of its config")
    if config.fold or not isinstance(config.dataset, CocoData) or config.dataset.val:
        return train, []
    held_out = datasets.load(config).val
    return train, [("held out", held_out)] if len(held_out) else []


def _one_document(parts: "list[CocoInstances]") -> dict[str, Any]:
    first = parts[0].document
    return {
        **first,
        "images": [image for part in parts for image in part.document["images"]],
        "annotations": [annotation for part in parts for annotation in part.document["annotations"]],
    }
