"""`lncis noise join`: the truth about noisy labels, from a second file of the same annotations."""

from pathlib import Path
from typing import Annotated, Any

import typer

from lncis.commands.copies import a_field_a_line, check_target, write_together
from lncis.errors import DataError
from lncis.files import digest
from lncis.noise import Document
from lncis.terminal import PROGRESS_DELAY_SECONDS, clear_errors, console_of_plain_text, progress

EPILOG = "lncis noise join NOISY.json CLEAN.json OUT.json: the truth from a second file (lncis noise join --help)."

COCO_N = (
    "a file of COCO-N (class_noise, boundary_type). Its val is noisy too, so test on COCO's own val2017; "
    "masks are noisy where boundary_type is not none"
)


def join(
    noisy: Annotated[Path, typer.Argument(metavar="NOISY.json", help="A COCO file whose labels are partly wrong.")],
    clean: Annotated[Path, typer.Argument(metavar="CLEAN.json", help="The same annotations with the right labels.")],
    out: Annotated[
        Path, typer.Argument(metavar="OUT.json", help="NOISY.json with the truth; its manifest becomes OUT.noise.json.")
    ],
    by_mask: Annotated[
        bool, typer.Option("--by-mask", help="Know annotations by their masks: ids of the two files differ.")
    ] = False,
    least_iou: Annotated[
        float, typer.Option(min=0.01, max=1.0, metavar="0..1", help="--by-mask: IoU from which two masks are the same.")
    ] = 0.5,
    force: Annotated[bool, typer.Option("--force", help="Replace OUT.json and its manifest if they exist.")] = False,
) -> None:
    """Write a copy of NOISY.json in which each annotation has its label of CLEAN.json as clean_category_id."""
    with clear_errors():
        manifest_path = out.with_name(f"{out.stem}.noise.json")
        for target in (out, manifest_path):
            check_target(target, inputs=[noisy, clean], force=force)
        from lncis.coco import annotations, exporters  # slow to load: a mistake in the options comes first
        from lncis.noise import join as joining
        from lncis.suspects.truth import labels_of_file

        ours, theirs = labels_of_file(noisy), labels_of_file(clean)
        if any(joining.CLEAN_LABEL in annotation for annotation in ours["annotations"]):
            raise DataError(f"{noisy}: has clean_category_id already: its truth is known; take it as it is")
        if by_mask:
            partners = _by_mask(noisy, clean, ours, theirs, least_iou)
        else:
            partners = joining.partners_by_key(exporters.original_keys(ours), exporters.original_keys(theirs))
        remedy = "" if by_mask else "join --by-mask"
        apart = joining.require_same_annotations(ours, theirs, partners, str(noisy), str(clean), remedy)
        try:
            labels = joining.clean_labels(ours, theirs, partners)
        except DataError as error:
            raise DataError(f"{noisy}, {clean}: {error}") from error
        by = {"by": "mask", "least_iou": least_iou} if by_mask else {"by": "id"}
        sources = {
            "noisy": noisy.name,
            "noisy_sha256": digest(noisy),
            "clean": clean.name,
            "clean_sha256": digest(clean),
        }
        manifest = {**joining.join_manifest(ours, labels), **by, **sources}
        original = {c["id"]: c.get(exporters.ORIGINAL_ID, c["id"]) for c in ours["categories"]}
        document = annotations.read_as_written(noisy)
        document["annotations"] = [
            entry if label is None else {joining.CLEAN_LABEL: original[label], **entry}
            for entry, label in zip(document["annotations"], labels, strict=True)
        ]
        write_together({manifest_path: [a_field_a_line(manifest)], out: annotations.texts(document)})
        _say(manifest, ours, apart)
        console_of_plain_text().print(f"labels: {out}\nmanifest: {manifest_path}", soft_wrap=True)


def _by_mask(noisy: Path, clean: Path, ours: Document, theirs: Document, least_iou: float) -> list[int | None]:
    """Return the partners by mask; the files are read again, as their masks are meant."""
    from lncis.coco import annotations
    from lncis.coco.masks import to_rle
    from lncis.noise.join import partners_by_mask

    a, b = (annotations.read(path).document for path in (noisy, clean))
    with progress(PROGRESS_DELAY_SECONDS) as show:
        found = partners_by_mask(a, b, to_rle, least_iou, lambda done, total: show("images", done, total))
    partner_of = {
        annotation["id"]: b["annotations"][partner]["id"]
        for annotation, partner in zip(a["annotations"], found, strict=True)
        if partner is not None
    }
    positions = {annotation["id"]: at for at, annotation in enumerate(theirs["annotations"])}
    return [positions.get(partner_of.get(annotation["id"])) for annotation in ours["annotations"]]


def _say(manifest: dict[str, Any], noisy: Document, apart: int) -> None:
    from lncis.noise.join import is_coco_n

    console = console_of_plain_text()
    labels, rate = manifest["annotations"], manifest["realised_rate"]
    if is_coco_n(noisy):
        said = sum(annotation.get("class_noise") is True for annotation in noisy["annotations"])
        console.print(f"note: {COCO_N}. class_noise says that {said:,} labels were flipped", soft_wrap=True)
    if manifest["unmatched"]:
        console.print(
            f"warning: {manifest['unmatched']:,} annotations have no partner: they stay, without a clean label",
            soft_wrap=True,
        )
    if apart:
        console.print(
            f"warning: {apart:,} annotations lie apart from their partner: are they the same?", soft_wrap=True
        )
    console.print(f"{round(rate * labels):,} of {labels:,} labels differ ({rate:.1%}), joined by {manifest['by']}")
