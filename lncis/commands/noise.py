"""`lncis noise`: label noise in any COCO file, into a new file with its manifest."""

import json
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from lncis import documents, files
from lncis.config import Noise
from lncis.errors import ConfigError, DataError
from lncis.noise import Document, corrupt
from lncis.terminal import clear_errors

COMMAND = "lncis noise"
FLIPS_SHOWN = 5

Source = Annotated[Path, typer.Argument(metavar="IN.json", help="A COCO instances file; it is only read.")]
Out = Annotated[Path, typer.Argument(metavar="OUT.json", help="The noisy copy; its manifest becomes OUT.noise.json.")]
# as text: the schema answers a wrong value, with the field, in one line
Kind = Annotated[
    str | None,
    typer.Option(metavar="KIND", help="symmetric, asymmetric, matrix, release-compat, or none.", show_default=False),
]
Rate = Annotated[str | None, typer.Option(metavar="0..1", help="Probability of a flip.", show_default=False)]
Seed = Annotated[str | None, typer.Option(metavar="INTEGER", help="Seed of the draw.", show_default=False)]
Stream = Annotated[str, typer.Option(help="Names an independent draw of the seed: one for each split.")]
MapOf = Annotated[str | None, typer.Option(metavar="NAME", help="asymmetric: voc, cityscapes, coco or digits.")]
Map = Annotated[Path | None, typer.Option(metavar="FILE.yaml", help="asymmetric: your own map of names to names.")]
Pair = Annotated[bool, typer.Option("--pair", help="asymmetric, COCO: two random classes of a super-class swap.")]
Matrix = Annotated[Path | None, typer.Option(metavar="FILE.yaml", help="matrix: a file with classes and rows.")]
Force = Annotated[bool, typer.Option("--force", help="Replace OUT.json and its manifest if they exist.")]


def noise(
    source: Source,
    out: Out,
    kind: Kind = None,
    rate: Rate = None,
    seed: Seed = None,
    stream: Stream = "train",
    map_of: MapOf = None,
    map: Map = None,
    pair: Pair = False,
    matrix: Matrix = None,
    force: Force = False,
) -> None:
    """Write a copy of a COCO file with noisy class labels; the clean ones stay beside them."""
    with clear_errors():
        given = {"kind": kind, "rate": rate, "seed": seed, "map_of": map_of, "map": map, "matrix": matrix}
        asked = _noise({name: value for name, value in given.items() if value is not None} | {"pair": pair})
        inputs = [path for path in (source, map, matrix) if path]
        _check_target(out, inputs=inputs, force=force)
        manifest_path = out.with_name(f"{out.stem}.noise.json")
        _check_target(manifest_path, inputs=inputs, force=force)
        document = _read(source)
        try:
            noisy, manifest = corrupt(document, asked, stream=stream)
        except DataError as error:
            raise DataError(f"{source}: {error}") from error
        # the copy last: where it is, all is
        _write({manifest_path: _a_field_a_line(manifest), out: json.dumps(noisy)})
        console = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
        console.print(summary(manifest))
        console.print(flips(manifest))
        console.print(f"labels: {out}\nmanifest: {manifest_path}")


def summary(manifest: dict[str, Any]) -> str:
    """Return the rates of a manifest in a sentence."""
    labels = manifest["annotations"]
    rates = ", ".join(f"{rate} {manifest[f'{rate}_rate']:.1%}" for rate in ("requested", "expected", "realised"))
    flipped = f"{round(manifest['realised_rate'] * labels):,} of {labels:,} labels flipped"
    return f"{manifest['kind']} noise, seed {manifest['seed']}: {flipped}; {rates}"


def flips(manifest: dict[str, Any]) -> Table:
    """Return the most frequent flips of a manifest, with their share of the clean class and what the law says."""
    names, counts, law = (manifest[key] for key in ("classes", "counts_given_clean_given_noisy", "transition_matrix"))
    pairs = [(c, n) for c in range(len(names)) for n in range(len(names)) if c != n and counts[c][n]]
    pairs.sort(key=lambda pair: -counts[pair[0]][pair[1]])
    table = Table("most frequent flips")
    for head in ("labels", "of the class", "by the law"):
        table.add_column(head, justify="right")
    for c, n in pairs[:FLIPS_SHOWN]:
        share = counts[c][n] / sum(counts[c])
        table.add_row(f"{names[c]} -> {names[n]}", f"{counts[c][n]:,}", f"{share:.1%}", f"{law[c][n]:.1%}")
    return table


def _noise(given: dict[str, Any]) -> Noise:
    """Return the noise that the options ask for; what is needed and missing is named at once."""
    kind = given.get("kind")
    needed = ["kind", "seed", *([] if kind in ("none", "matrix") else ["rate"]), *(["matrix"] * (kind == "matrix"))]
    if missing := [name for name in needed if name not in given]:
        raise ConfigError(COMMAND, [f"needs {', '.join(f'--{name}' for name in missing)}; see {COMMAND} --help"])
    if kind == "matrix" and "rate" in given:
        raise ConfigError(COMMAND, ["--rate must not be given with --kind matrix, whose rows say the rates"])
    files = {name: documents.read_mapping(given[name]) for name in ("map", "matrix") if name in given}
    return documents.parse(Noise, given | files, source=COMMAND)


def _check_target(target: Path, *, inputs: list[Path], force: bool) -> None:
    try:
        if not (target.exists() or target.is_symlink()):
            if not target.parent.is_dir():
                raise DataError(f"{target} cannot be written: {target.parent} is no folder; create it")
            return
        # the same file also by another name: a symbolic or a hard link
        if same := next((path for path in inputs if path.exists() and target.exists() and target.samefile(path)), None):
            raise DataError(f"{target} is the input {same}, which is never written to; name another file")
    except OSError as error:
        raise DataError(f"{target} cannot be written: {error.strerror}; name another file") from error
    if not force:
        raise DataError(f"{target} exists already; name another file, or replace it by --force")
    if target.exists() and not target.is_file():
        raise DataError(f"{target} is no regular file; name another one")


def _read(path: Path) -> Document:
    try:
        document: Document = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file; check the path") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}; check the path") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not JSON ({error}); is it complete?") from error
    return document


def _write(texts: dict[Path, str]) -> None:
    """Write all files, each whole, and none before all are complete."""
    try:
        with ExitStack() as stack:
            for path, text in reversed(texts.items()):  # the stack unwinds: the first takes its place first
                file = stack.enter_context(files.replacing(path))
                file.write(text.encode())
                file.flush()
    except OSError as error:
        raise DataError(f"{path} cannot be written: {error.strerror}; free some room, or name another file") from error


def _a_field_a_line(manifest: dict[str, Any]) -> str:
    """Return JSON whose matrices do not take a line for each number."""
    lines = ",\n".join(f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in manifest.items())
    return f"{{\n{lines}\n}}\n"
