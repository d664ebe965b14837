"""`lncis suspects`: which labels are probably wrong, by what trained models say of them."""

import json
import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from lncis import files
from lncis.commands.model import Gpu, Threads, torch_device
from lncis.errors import ConfigError, DataError
from lncis.terminal import PROGRESS_DELAY_SECONDS, clear_errors, console_of_plain_text, progress

if TYPE_CHECKING:
    from lncis.datasets.coco import CocoInstances
    from lncis.studies.trained import Trained
    from lncis.suspects.assessment import Assessment
    from lncis.suspects.suspect import Suspect

SUSPECTS, TABLE, ASSESSMENT, REPORT = "suspects.json", "suspects.csv", "assessment.json", "report.html"
SHOWN = 10

EPILOG = (
    "Then: `lncis suspects gallery` reviews a list, `lncis suspects apply` repairs the file, `lncis suspects export` "
    "brings both to other tools; --help of each says how."
)

Runs = Annotated[list[Path], typer.Argument(help="Folders of trainings or studies on the data; of a study, its best.")]
Out = Annotated[Path, typer.Option(help="New folder for the list, its report and its exports.")]
File = Annotated[
    Path | None, typer.Option("--data", help="A COCO file of the same classes to judge in place of the training's own.")
]
Images = Annotated[Path | None, typer.Option(help="Folder of its images.")]


def score(
    runs: Runs,
    out: Out,
    data: File = None,
    images: Images = None,
    gpu: Gpu = False,
    threads: Threads = 1,
) -> None:
    """List every annotation with the probability that its label is wrong, the most probable first."""
    with clear_errors():
        if (data is None) != (images is None):
            raise ConfigError("--data, --images", ["belong together; give both, or none"])
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise ConfigError(str(out), ["holds something already; name a new folder"])
        device = torch_device(gpu, threads)
        import numpy as np  # slow to load, as what follows

        from lncis.config import CocoData
        from lncis.studies import trained
        from lncis.suspects import assessment, losses, noise_model, report, scores, scoring, tables

        models = [found for run in runs for found in trained.find_all(run)]
        _of_one_data_set(models)
        train, others = _data(models[0], data, images)
        scorers = [scoring.Scorer(name=str(m.path.parent), config=m.config, model=m.model) for m in models]
        if data is not None:  # nobody knows whether they saw it
            scorers = [replace(scorer, config=replace(scorer.config, fold=None)) for scorer in scorers]
        with progress(PROGRESS_DELAY_SECONDS) as show:
            scored = scoring.score(scorers, train, others, device=device, on_progress=show)
        found = scored.found
        if len(found) == 0:
            raise DataError("the data hold no annotation with a mask; there is nothing to judge")
        noise = noise_model.estimate(found.probabilities, found.given)
        document = _one_document([train, *(dataset for _, dataset in others)])
        recorded = losses.of_annotations(m.path.parent for m in models)
        listed = scores.suspects_of(document, found, noise, scored.by, recorded if data is None else {})
        categories = sorted(document["categories"], key=lambda category: int(category["id"]))
        place = {category["id"]: k for k, category in enumerate(categories)}
        clean = {a["id"]: place[a["clean_category_id"]] for a in document["annotations"] if "clean_category_id" in a}
        known = all(int(i) in clean for i in found.annotation_ids)
        true = np.array([clean[int(i)] for i in found.annotation_ids]) if known else None
        assessed = assessment.assess(found, noise, [category["name"] for category in categories], true)
        dataset = models[0].config.dataset
        name = (data or (dataset.train if isinstance(dataset, CocoData) else Path(dataset.type))).name
        try:
            with files.appearing(out) as folder:
                whole = tables.SuspectList(annotations=name, classes=assessed.classes, suspects=listed)
                with (folder / SUSPECTS).open("w", encoding="utf-8") as file:
                    file.writelines(tables.json_texts(whole))
                with (folder / TABLE).open("w", encoding="utf-8", newline="") as file:
                    file.writelines(tables.csv_texts(whole))
                (folder / ASSESSMENT).write_text(_json(asdict(assessed)), encoding="utf-8")
                title = str(data or runs[0])
                (folder / REPORT).write_text(
                    report.report_html(title, listed, assessed, scored.in_sample), encoding="utf-8"
                )
        except OSError as error:
            raise ConfigError(str(out), [f"cannot be written: {error.strerror}; name another folder"]) from error
        _print(listed, assessed, scored.in_sample)
        console_of_plain_text().print(f"list: {out / SUSPECTS}\nreport: {out / REPORT}", soft_wrap=True)


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


def _json(value: Any) -> str:
    import numpy as np

    def plain(some: Any) -> Any:
        if isinstance(some, dict):
            return {str(key): plain(inner) for key, inner in some.items()}
        if isinstance(some, list | tuple):
            return [plain(inner) for inner in some]
        if isinstance(some, np.ndarray):
            return plain(some.tolist())
        return None if isinstance(some, float) and not math.isfinite(some) else some

    return json.dumps(plain(value), indent=1)


def _print(listed: "list[Suspect]", assessed: "Assessment", in_sample: int) -> None:
    console = console_of_plain_text(width=120)
    table = Table("rank", "annotation", "image", "given", "suggested", "wrong with")
    for suspect in listed[:SHOWN]:
        table.add_row(
            str(suspect.rank),
            str(suspect.annotation_id),
            suspect.file_name,
            suspect.given,
            suspect.suggested,
            f"{suspect.wrong_probability:.1%}",
        )
    console.print(table)
    low, high = assessed.rate_interval
    console.print(
        f"estimated noise: {assessed.rate:.1%} of {len(listed):,} labels are wrong (95 % CI {low:.1%} to {high:.1%})"
    )
    if truth := assessed.truth:
        console.print(f"known noise: {truth.errors / len(listed):.1%}")
    console.print(str(assessed.plan))
    if in_sample:
        console.print(
            f"note: {in_sample:,} labels were judged by models that were trained on them, which have learned some of "
            "their errors; train with folds for better ones"
        )
    if truth:
        figures = Table("score", "AUROC", "AUPRC", "precision at the errors", *(f"of the first {n}" for n in (50, 100)))
        for name, ranking in truth.rankings.items():
            firsts = [f"{ranking.precision_at[n]:.3f}" if n in ranking.precision_at else "" for n in (50, 100)]
            figures.add_row(
                name, f"{ranking.auroc:.3f}", f"{ranking.auprc:.3f}", f"{ranking.precision_at_errors:.3f}", *firsts
            )
        console.print(figures)
        console.print(
            f"calibration error {truth.calibration_error:.3f}; the suggestion is right for "
            f"{truth.suggestion_right:.1%} of the errors"
        )
