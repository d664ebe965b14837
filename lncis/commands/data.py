"""The commands `lncis data`: preparing and checking data sets."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from pydantic import TypeAdapter

from lncis import files
from lncis.config import CocoData, DigitsData
from lncis.errors import DataError
from lncis.terminal import PROGRESS_DELAY_SECONDS, clear_errors, console_of_plain_text, progress
from lncis.yaml_text import yaml_text

if TYPE_CHECKING:
    from lncis.coco.checking import Checked
    from lncis.datasets.conversion import Conversion

SNIPPET = "dataset.yaml"

app = typer.Typer(no_args_is_help=True, help="Prepare data sets for training, and check them.")
prepare = typer.Typer(no_args_is_help=True, help="Convert a data set to COCO files; nothing is downloaded.")
app.add_typer(prepare, name="prepare")

Out = Annotated[Path, typer.Option(help="Folder for the COCO files; an interrupted conversion resumes there.")]
AcceptSubset = Annotated[bool, typer.Option("--accept-subset", help="Accept an incomplete release.")]


@prepare.command()
def voc(
    source: Annotated[str, typer.Option(help="sbd: SBD's masks on the Main lists; voc-seg: VOC's own masks.")],
    vocdevkit: Annotated[Path, typer.Option(help="The folder VOCdevkit, which holds VOC2012.")],
    out: Out,
    sbd: Annotated[Path | None, typer.Option(help="SBD's folder dataset, which holds inst.")] = None,
    accept_subset: AcceptSubset = False,
) -> None:
    """Convert PASCAL VOC 2012: its train list for training, its val list as the test."""
    with clear_errors():
        from lncis.datasets import voc as release  # slow to load

        masks = next((known for known in release.IMAGES if known == source), None)
        if masks is None:
            raise DataError(f"--source must be {' or '.join(release.IMAGES)} but got {source}")
        _convert(release.conversions(masks, vocdevkit, sbd, out, accept_subset=accept_subset), out)


@prepare.command()
def cityscapes(
    source: Annotated[Path, typer.Option(help="Folder that holds gtFine and leftImg8bit.")],
    out: Out,
    accept_subset: AcceptSubset = False,
) -> None:
    """Convert Cityscapes: the train cities for training, the val cities as the test."""
    with clear_errors():
        from lncis.datasets import cityscapes as release

        _convert(release.conversions(source, out, accept_subset=accept_subset), out)


@prepare.command()
def coco(
    source: Annotated[Path, typer.Option(help="Folder that holds annotations, train2017 and val2017.")],
    out: Annotated[Path, typer.Option(help="Folder for dataset.yaml; COCO's own files stay where they are.")],
    accept_subset: AcceptSubset = False,
) -> None:
    """Check COCO 2017, which needs no conversion: train2017 for training, val2017 as the test."""
    with clear_errors():
        from lncis.datasets import coco2017

        _hand_over(coco2017.check_release(source, accept_subset=accept_subset), out)


@prepare.command()
def digits(
    out: Out,
    train_scenes: Annotated[int, typer.Option(min=1)] = DigitsData().train_scenes,
    val_scenes: Annotated[int, typer.Option(min=1)] = DigitsData().val_scenes,
    test_scenes: Annotated[int, typer.Option(min=1)] = DigitsData().test_scenes,
    signs: Annotated[int, typer.Option(min=0, max=10, help="Printed signs as classes after the ten digits.")] = 0,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the composition.")] = 0,
) -> None:
    """Write the embedded digits as image files and COCO files, as an example of your own data."""
    with clear_errors():
        from lncis.datasets import digits as scenes

        config = DigitsData(
            train_scenes=train_scenes, val_scenes=val_scenes, test_scenes=test_scenes, signs=signs, seed=seed
        )
        with progress() as show:
            data = scenes.export(config, out, lambda done, total: show("digits", done, total))
        _hand_over(data, out)


@app.command()
def check(
    file: Annotated[Path, typer.Argument(help="A COCO instances file.")],
    images: Annotated[Path | None, typer.Option(help="Folder of its images, to check them too.")] = None,
) -> None:
    """Check a COCO file and list its faults; exits with 1 if it cannot be trained on, with 2 if it cannot be read."""
    with clear_errors():
        from lncis.coco import checking

        with progress(PROGRESS_DELAY_SECONDS) as show:
            checked = checking.check(file, images, show)
        _print(checked)
        if checked.errors:
            kinds = (
                f"{len(checked.errors)} kinds of errors keep" if len(checked.errors) > 1 else "1 kind of error keeps"
            )
            typer.echo(f"error: {file}: {kinds} it from being trained on", err=True)
            raise typer.Exit(1)


def _convert(conversions: "list[Conversion]", out: Path) -> None:
    from lncis.datasets import conversion

    with progress() as show:
        for part in conversions:
            conversion.run(part, lambda done, total, part=part: show(part.name, done, total))  # type: ignore[misc]
    train, test = conversions
    _hand_over(CocoData(images=train.images, train=train.target, test=test.target), out)


def _hand_over(data: CocoData, out: Path) -> None:
    """Print the `dataset:` of a training on these data, and write it to the folder."""
    fields = TypeAdapter(CocoData).dump_python(data, mode="json", exclude_defaults=True)
    snippet = yaml_text({"dataset": {"type": data.type, **fields}})
    try:
        files.replace(out / SNIPPET, snippet)
    except OSError as error:
        raise DataError(f"{out} cannot be written: {error.strerror}; name another folder") from error
    console = console_of_plain_text()
    console.print(f"the dataset of a training, also in {out / SNIPPET}:", soft_wrap=True)
    console.print(snippet, soft_wrap=True, end="")


def _print(checked: "Checked") -> None:
    console = console_of_plain_text()
    if counts := checked.counts:
        boxes = f", {counts.box_only} boxes without a mask" if counts.box_only else ""
        console.print(f"{counts.images} images, {counts.instances} instances, {counts.crowds} crowds{boxes}")
        for name, count in counts.instances_by_class.items():
            console.print(f"  {count:>8}  {name}", soft_wrap=True)
        if counts.flipped is not None:
            console.print(f"labels flipped: {counts.flipped:.1f} % of those whose clean label is there")
    for finding in checked.findings:
        console.print(f"{finding.severity}: {finding}", soft_wrap=True)
    if not checked.findings:
        console.print("no fault found")
