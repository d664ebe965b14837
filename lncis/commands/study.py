"""`lncis study run`, `report` and `compare`; lncis.studies.gamma_sweep runs its study by the first one, too."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from lncis.errors import BudgetError, ConfigError, StudyError
from lncis.studies.plan import Plan, plan
from lncis.studies.spec import StudySpec
from lncis.studies.spec import files as spec_files
from lncis.studies.spec.judging import judged_before
from lncis.terminal import clear_errors, console_of_plain_text
from lncis.yaml_text import parse_yaml

PRINTED = {
    "best config": "best.yaml",
    "report": "report.html",
    "table": "table.txt",
    "all figures": "results.json",
}

With = Annotated[
    list[Path] | None,
    typer.Option(
        "--with", help="YAML file of a training, laid over the study's base, such as the dataset.yaml of your data."
    ),
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        help="Another value for a field of the study or of its base, such as noise.rate=0.2.",
        metavar="PATH=VALUE",
    ),
]
PRICE = "resources.price_per_worker_hour"
"""With the budget it may be changed where a study is resumed."""

File = Annotated[Path | None, typer.Argument(help="YAML file of the study.", show_default=False)]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the plan, wall time and disk space, and stop.")]
Runs = Annotated[Path, typer.Option(help="Folder that holds a folder for each study.")]
Resume = Annotated[str | None, typer.Option(help="Resume the study with this id.", metavar="STUDY_ID")]
RetryFailed = Annotated[bool, typer.Option("--retry-failed", help="With --resume: run failed trials again.")]
NoSharing = Annotated[
    bool, typer.Option("--no-sharing", help="Train every trial alone, to compare with shared training.")
]
NoCheck = Annotated[
    bool, typer.Option("--no-check", help="Skip the check that each searched parameter changes the training.")
]
StoreGB = Annotated[
    float, typer.Option(min=0, help="Disk space in GB for finished stages that later studies can reuse.")
]
Storage = Annotated[
    str | None,
    typer.Option(
        envvar="LNCIS_STORAGE",
        help="URL where workers publish stages and checkpoints, such as s3://bucket/lncis; else the study's folder.",
        metavar="URL",
    ),
]
Verbose = Annotated[bool, typer.Option("--verbose", help="Show the output of Ray.")]


def run_file(
    context: typer.Context,
    file: File = None,
    resume: Resume = None,
    with_: With = None,
    set_: Set = None,
    dry_run: DryRun = False,
    retry_failed: RetryFailed = False,
    no_sharing: NoSharing = False,
    no_check: NoCheck = False,
    runs: Runs = Path("runs"),
    store_gb: StoreGB = 20.0,
    storage: Storage = None,
    verbose: Verbose = False,
) -> None:
    """Run or resume a study, and print its table and the paths of its best configuration, report and results."""
    with clear_errors():
        if resume is None and file is None:
            file = context.obj  # the study of a module such as lncis.studies.gamma_sweep
        spec = _spec(file, resume, with_ or [], set_ or [], retry_failed, runs)
        checked, shared = spec.sensitivity_check and not no_check, spec.sharing and not no_sharing
        spec = judged_before(replace(spec, sharing=shared, sensitivity_check=checked))  # by the door it came in
        console = console_of_plain_text(width=120)  # while the study runs stdout is redirected to a log
        planned = plan(spec)
        if dry_run:
            console.print(planned.view())
            from lncis.studies import estimate  # may load torch, to time a few steps

            console.print(estimate.estimate_text(planned, runs))
            return
        run_and_print(
            planned,
            runs,
            console,
            study_id=resume,
            store_gb=store_gb,
            storage=storage,
            verbose=verbose,
            retry_failed=retry_failed,
        )


def run_and_print(
    planned: Plan,
    runs: Path,
    console: Console,
    *,
    study_id: str | None = None,
    store_gb: float,
    storage: str | None,
    verbose: bool,
    retry_failed: bool = False,
) -> None:
    """Run a planned study, or go on with the one that has an id, and print what it found."""
    # loads torch, Ray and MLflow: seconds that a mistake in the file need not cost
    from lncis.commands.display import Display
    from lncis.studies import folders
    from lncis.studies.report import table
    from lncis.studies.run import run_study

    spec, study_id = planned.spec, study_id or folders.new_study_id(planned.spec)
    with (
        _sigterm_as_interrupt(),
        _resume_hint(console, study_id),
        _found_until_then(console, runs, study_id),
        Display(spec, study_id, planned.sharing.trained, console) as display,
    ):
        folders.claim_folder(runs, study_id, spec, update=True)  # a resumed one may have a larger budget
        result = run_study(
            spec,
            study_id=study_id,
            runs=runs,
            observers=[display],
            store_bytes=store_gb * 1e9,
            storage=storage,
            retry_failed=retry_failed,
            verbose=verbose,
        )
    console.print(table.result_table(result))
    _print_paths(console, result)


def report_study(study_id: Annotated[str, typer.Argument(help="Id of the study.")], runs: Runs = Path("runs")) -> None:
    """Print the table of a study, finished or running, and write its report again."""
    with clear_errors():
        from lncis.studies import folders
        from lncis.studies.report import files as report
        from lncis.studies.report import table

        result = folders.read_result(runs, study_id)
        console = console_of_plain_text(width=120)
        with suppress(StudyError):  # no configuration has finished; the rest is written
            report.write_report(result)
        console.print(table.result_table(result))
        _print_paths(console, result)


def compare_studies(
    study_ids: Annotated[list[str], typer.Argument(help="Ids of the studies, in the order of the columns.")],
    runs: Runs = Path("runs"),
) -> None:
    """Print the clean test AP of each configuration, with a column for each study."""
    with clear_errors():
        from lncis.studies import folders
        from lncis.studies.report import comparison

        results = [folders.read_result(runs, study_id) for study_id in study_ids]
        console = console_of_plain_text(width=160)
        console.print(comparison.comparison_table(results))


def _spec(
    file: Path | None, resume: str | None, over: list[Path], given: list[str], retry_failed: bool, runs: Path
) -> StudySpec:
    if retry_failed and resume is None:
        raise ConfigError("--retry-failed", ["needs the study whose failed trials it runs again: --resume STUDY_ID"])
    if resume is not None:
        from lncis.studies import folders

        if file is not None:
            raise ConfigError(
                str(file), [f"must not be given with --resume {resume}: a resumed study has its own spec"]
            )
        changes = changes_of(given)
        if over or any(path.partition(".")[0] != "budget" and path != PRICE for path in changes):
            raise ConfigError(
                "--set, --with",
                [f"must not be given with --resume {resume}, but for budget: a resumed study keeps its spec"],
            )
        spec = folders.read_spec(runs, resume)
        if not changes:
            return spec
        changed = spec_files.changed_spec_document(spec, changes, source="--set")
        return spec_files.parse_spec(changed, source="--set")
    if file is None:
        raise ConfigError("lncis study run", ["needs a study: a YAML file, or --resume STUDY_ID"])
    return spec_files.load_spec(file, changes_of(given), over)


def changes_of(given: list[str], source: str = "--set", example: str = "noise.rate=0.2") -> dict[str, Any]:
    """Return the values of `--set PATH=VALUE` by their paths; values are YAML. ConfigError for another form."""
    found, problems = dict[str, Any](), list[str]()
    for change in given:
        path, equals, text = change.partition("=")
        path = path.strip()
        if not (equals and path):
            problems.append(f"must be PATH=VALUE, such as {example}, but got {change!r}")
            continue
        if path in found:
            problems.append(f"{path}: is set twice; keep one of the two")
        try:
            # what the locale could not decode is here again as it was typed
            found[path] = parse_yaml(text.encode(errors="surrogateescape"), source=path)
        except ConfigError as error:
            problems += str(error).splitlines()
    if problems:
        raise ConfigError(source, problems)
    return found


@contextmanager
def _sigterm_as_interrupt() -> Iterator[None]:
    """Within the block SIGTERM, which clusters send, stops the study in order, as Ctrl-C does."""

    def stop(*received: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _resume_hint(console: Console, study_id: str) -> Iterator[None]:
    """Within the block an interrupt prints how the study is resumed."""
    try:
        yield
    except KeyboardInterrupt:
        console.print(f"resume it with: lncis study run --resume {study_id}", soft_wrap=True)
        raise


@contextmanager
def _found_until_then(console: Console, runs: Path, study_id: str) -> Iterator[None]:
    """Within the block a spent budget prints the table of what there is."""
    try:
        yield
    except BudgetError:
        from lncis.studies import folders
        from lncis.studies.report import table

        result = folders.read_result(runs, study_id)
        console.print(table.result_table(result))
        if result.searched:
            _print_paths(console, result)
        raise


def _print_paths(console: Console, result: Any) -> None:
    for what, name in PRINTED.items():
        console.print(f"{what}: {_short(result.directory / name)}", soft_wrap=True)
    from lncis.tracking import shown_uri

    console.print(f"curves: make mlflow  ({shown_uri()})", soft_wrap=True)


def _short(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
