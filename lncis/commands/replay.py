"""`lncis study replay`."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from lncis import documents, files
from lncis.errors import ConfigError
from lncis.studies.spec import StudySpec
from lncis.studies.spec.samplers import Sampler
from lncis.terminal import clear_errors, console_of_plain_text
from lncis.yaml_text import parse_yaml

PRUNERS = ("none", "asha:reduction_factor=2", "asha:reduction_factor=3", "median")
"""Replayed where none is named."""


def replay(
    run: Annotated[Path, typer.Argument(help="Id of a finished study, or its folder.", metavar="STUDY")],
    pruner: Annotated[
        list[str] | None,
        typer.Option(
            help="A pruner, such as asha:reduction_factor=3,first_rung=2; may be repeated.", metavar="TYPE[:FIELD=...]"
        ),
    ] = None,
    sampler: Annotated[
        list[str] | None,
        typer.Option(
            help="A sampler, such as tpe:configurations=8, over a finished grid; may be repeated.",
            metavar="TYPE[:FIELD=...]",
        ),
    ] = None,
    orders: Annotated[int, typer.Option(min=1, help="Orders of arrival, or seeds of a sampler.")] = 1000,
    at_a_time: Annotated[
        int | None,
        typer.Option(min=1, help="Configurations that train at a time; else as the study's resources have it."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="PNG file for a picture.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
    runs: Annotated[Path, typer.Option(help="Folder that holds a folder for each study.")] = Path("runs"),
) -> None:
    """Print what other pruners would have saved and lost in a finished study, from its curves; nothing is trained."""
    with clear_errors():
        from lncis.studies.replay import figures, shown
        from lncis.studies.replay.curves import read_curves

        known = read_curves(run, runs)
        spec = known.spec
        pruners = {text: _changed(spec, "pruner", text).pruner for text in pruner or PRUNERS}
        samplers: dict[str, Sampler | None] = {
            text: _changed(spec, "sampler", text).sampler if text else None for text in sampler or [""]
        }
        beside = at_a_time or max(1, spec.resources.at_a_time(spec.total_trials) // len(spec.replicates))
        rows = [
            figures.replayed(known, one, tried, names=(of_sampler, name), orders=orders, at_a_time=beside)
            for of_sampler, tried in samplers.items()
            for name, one in pruners.items()
        ]
        remarks = [f"{name}: {moved}" for name, one in pruners.items() if (moved := figures.moved_rungs(spec, one))]
        if out is not None:
            _write_picture(out, shown.picture(known, rows))
        if as_json:
            print(json.dumps(shown.document(known, rows, remarks), indent=1, allow_nan=False))
            return
        console_of_plain_text(width=160).print(shown.table(known, rows, remarks))


def _changed(spec: StudySpec, field: str, text: str) -> StudySpec:
    """Return a study with the pruner or sampler that `TYPE:FIELD=VALUE,...` describes; ConfigError names the option."""
    name, _, given = text.partition(":")
    chosen: dict[str, Any] = {documents.TAG: name}
    for pair in filter(None, given.split(",")):
        key, equals, value = pair.partition("=")
        if not equals:
            raise ConfigError(f"--{field} {text}", [f"{pair}: must be FIELD=VALUE, such as first_rung=2"])
        if key.strip() in chosen:
            raise ConfigError(f"--{field} {text}", [f"{key.strip()} stands twice; name it once"])
        chosen[key.strip()] = parse_yaml(value.encode(errors="surrogateescape"), source=f"--{field} {text}")
    source = f"--{field} {text}"
    return documents.parse(StudySpec, {**documents.dump(spec), field: chosen}, source=source)


def _write_picture(path: Path, content: bytes) -> None:
    try:
        files.replace(path, content)
    except OSError as error:
        raise ConfigError("--out", [f"{path} cannot be written: {error.strerror}; name another file"]) from error
