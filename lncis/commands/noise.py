"""`lncis noise`: label noise in any COCO file, into a new file with its manifest."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from lncis import documents
from lncis.commands.copies import a_field_a_line, check_target, write_together
from lncis.config import NoiseConfig
from lncis.errors import ConfigError, DataError
from lncis.noise import corrupt
from lncis.terminal import clear_errors

COMMAND = "lncis noise"
FLIPS_SHOWN = 5

Source = Annotated[Path, typer.Argument(metavar="IN.json", help="A COCO instances file; it is only read.")]
Out = Annotated[Path, typer.Argument(metavar="OUT.json", help="The noisy copy; its manifest becomes OUT.noise.json.")]
# as text: the schema answers a wrong value, with the field, in one line
Type = Annotated[
    str | None,
    typer.Option(metavar="NOISE", help="symmetric, asymmetric, matrix, release-compat or none.", show_default=False),
]
Rate = Annotated[str | None, typer.Option(metavar="0..1", help="Probability of a flip.", show_default=False)]
Seed = Annotated[str | None, typer.Option(metavar="INTEGER", help="Seed of the draw.", show_default=False)]
Exact = Annotated[
    bool, typer.Option("--exact", help="symmetric, asymmetric: flip exactly this share, rounded, and draw which.")
]
Stream = Annotated[str, typer.Option(help="Name of an independent draw with this seed: give each split its own.")]
MapOf = Annotated[str | None, typer.Option(metavar="NAME", help="asymmetric: voc, cityscapes, coco or digits.")]
Map = Annotated[
    Path | None, typer.Option(metavar="FILE.yaml", help="asymmetric: your own map from class names to class names.")
]
Pair = Annotated[bool, typer.Option("--pair", help="asymmetric, COCO: two random classes of a super-class swap.")]
Matrix = Annotated[
    Path | None,
    typer.Option(metavar="FILE.yaml", help="matrix: a file with the classes and rows of a transition matrix."),
]
Force = Annotated[bool, typer.Option("--force", help="Replace OUT.json and its manifest if they exist.")]


def noise(
    source: Source,
    out: Out,
    type: Type = None,
    rate: Rate = None,
    seed: Seed = None,
    exact: Exact = False,
    stream: Stream = "train",
    map_of: MapOf = None,
    map: Map = None,
    pair: Pair = False,
    matrix: Matrix = None,
    force: Force = False,
) -> None:
    """Write a copy of a COCO file with noisy class labels; each clean label stays beside the noisy one."""
    with clear_errors():
        given = {"type": type, "rate": rate, "seed": seed, "exact": exact or None, "map_of": map_of}
        given["pair"] = pair or None
        requested = _noise({name: value for name, value in given.items() if value is not None}, map, matrix)
        inputs = [path for path in (source, map, matrix) if path]
        check_target(out, inputs=inputs, force=force)
        manifest_path = out.with_name(f"{out.stem}.noise.json")
        check_target(manifest_path, inputs=inputs, force=force)
        from lncis.coco import annotations  # slow to load: a mistake in the options comes first

        reading = annotations.read_labels(source)
        try:
            noisy, manifest = corrupt(reading.document, requested, stream=stream)
            if reading.errors:
                raise DataError(str(reading.errors[0]))
        except DataError as error:
            raise DataError(f"{source}: {error}") from error
        # headings stay in the copy: another file of the training may have them as classes
        copy = {**noisy, "categories": [*noisy["categories"], *reading.headings]}
        try:
            # the copy last: where it is, all is
            write_together({manifest_path: [a_field_a_line(manifest)], out: annotations.texts(copy)})
        except ValueError as error:
            raise DataError(f"{source}: holds a number beyond 1e308, which JSON has not; correct it") from error
        console = Console(markup=False, emoji=False, highlight=False, soft_wrap=True)
        for finding in reading.findings:
            console.print(f"{finding.severity}: {finding}")
        console.print(summary(manifest))
        console.print(flips(manifest))
        console.print(f"labels: {out}\nmanifest: {manifest_path}")


def summary(manifest: dict[str, Any]) -> str:
    """Return the rates of a manifest in a sentence."""
    labels = manifest["annotations"]
    rates = ", ".join(f"{rate} {manifest[f'{rate}_rate']:.1%}" for rate in ("requested", "expected", "realised"))
    flipped = f"{round(manifest['realised_rate'] * labels):,} of {labels:,} labels flipped"
    seed = "" if manifest["seed"] is None else f", seed {manifest['seed']}"
    return f"noise of type {manifest['type']}{seed}: {flipped}; {rates}"


def flips(manifest: dict[str, Any]) -> Table:
    """Return the most frequent flips of a manifest, with their share of the clean class and the expected one."""
    names, counts = manifest["classes"], manifest["counts_given_clean_given_noisy"]
    pairs = [(c, n) for c in range(len(names)) for n in range(len(names)) if c != n and counts[c][n]]
    pairs.sort(key=lambda pair: -counts[pair[0]][pair[1]])
    table = Table("most frequent flips")
    for head in ("labels", "of the class", "expected"):
        table.add_column(head, justify="right")
    for c, n in pairs[:FLIPS_SHOWN]:
        share, expected = counts[c][n] / sum(counts[c]), manifest["transition_matrix"][c][n]
        table.add_row(f"{names[c]} -> {names[n]}", f"{counts[c][n]:,}", f"{share:.1%}", f"{expected:.1%}")
    return table


def _noise(given: dict[str, Any], map: Path | None, matrix: Path | None) -> NoiseConfig:
    """Return the noise that the options describe; all that is missing is named at once."""
    needed = {None: ["type", "rate", "seed"], "none": [], "matrix": ["seed"]}.get(given.get("type"), ["rate", "seed"])
    missing = [name for name in needed if name not in given]
    if given.get("type") == "matrix" and matrix is None:
        missing.append("matrix")
    if missing:
        raise ConfigError(COMMAND, [f"needs {', '.join(f'--{name}' for name in missing)}; see {COMMAND} --help"])
    files = (documents.read_mapping(matrix) if matrix else {}) | ({"map": documents.read_mapping(map)} if map else {})
    noise: NoiseConfig = documents.parse(NoiseConfig, files | given, source=COMMAND)  # type: ignore[arg-type]  # a union
    return noise
