"""Running a study from a terminal: check, plan, run, show. Every command line that runs a study comes here."""

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from lncis.studies import spec as specs
from lncis.studies.plan import plan
from lncis.terminal import clear_errors

GAMMA_SWEEP = Path("studies/gamma_sweep.yaml")

PRINTED = {
    "best config": "best.yaml",
    "table": "table.txt",
    "plot": "plot.png",
    "all figures": "results.json",
}

File = Annotated[Path, typer.Argument(help="The study: a YAML file.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print what would be done, and do nothing.")]
Runs = Annotated[Path, typer.Option(help="Where studies put their folders.")]
Verbose = Annotated[bool, typer.Option("--verbose", help="Let Ray say all it has to say.")]


def run_file(file: File, dry_run: DryRun = False, runs: Runs = Path("runs"), verbose: Verbose = False) -> None:
    """Run a study and print its table, its best configuration and where everything is."""
    with clear_errors():
        spec = specs.load(file)
        planned = plan(spec)
        # bound to today's stdout: during the study what others print goes to a log
        console = Console(file=sys.stdout, width=None if sys.stdout.isatty() else 120)
        if dry_run:
            console.print(planned.view())
            return
        # loads torch, Ray and MLflow: seconds that a mistake in the file need not cost
        from lncis.studies import report
        from lncis.studies.display import Display
        from lncis.studies.run import new_study_id, run_study

        study_id = new_study_id(spec)
        with Display(spec, study_id, planned.sharing.trained, console) as display:
            result = run_study(spec, study_id=study_id, runs=runs, observers=[display], verbose=verbose)
        console.print(report.table(result))
        for what, name in PRINTED.items():
            console.print(f"{what}: {_short(result.directory / name)}", soft_wrap=True, highlight=False)
        console.print(f"curves: make mlflow  ({result.mlflow_uri})", soft_wrap=True, highlight=False)


def run_gamma_sweep(
    file: File = GAMMA_SWEEP, dry_run: DryRun = False, runs: Runs = Path("runs"), verbose: Verbose = False
) -> None:
    """At what loss should a foreground sample be isolated? Table 6 of the paper, on the embedded digits."""
    run_file(file, dry_run, runs, verbose)


def _short(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
