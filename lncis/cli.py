"""The command `lncis`."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from lncis import documents
from lncis.config import TrainConfig, Workers
from lncis.metrics import Record
from lncis.studies import command
from lncis.terminal import clear_errors

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__)
study = typer.Typer(no_args_is_help=True, help="Questions put to many trainings.")
app.add_typer(study, name="study")
study.command("run")(command.run_file)


@app.command()
def train(
    config: Annotated[Path, typer.Argument(help="A training: a YAML file, such as a study's best.yaml.")],
    out: Annotated[Path, typer.Option(help="Folder for the checkpoint; an unfinished training there goes on.")],
    num_workers: Annotated[int, typer.Option(min=1, help="Processes that share each batch.")] = 1,
    gpus_per_worker: Annotated[float, typer.Option(min=0, help="GPUs for each; 0 trains on the CPU.")] = 0,
    verbose: command.Verbose = False,
) -> None:
    """Train one configuration on Ray Train workers."""
    with clear_errors():
        parsed = documents.load(TrainConfig, config)
        workers = Workers(num_workers=num_workers, gpus_per_worker=gpus_per_worker)
        from lncis import cluster, datasets, training  # slow to load: a mistake in the file comes first

        console = Console(highlight=False)
        datasets.load(parsed)
        training.claim(out, parsed)
        with cluster.connected(workers, lanes=1, verbose=verbose):
            training.fit(
                parsed, out, workers, on_epoch=lambda record: console.print(_line(parsed, record), soft_wrap=True)
            )
        console.print(f"checkpoint: {out / 'checkpoint.pt'}", soft_wrap=True)


def _line(config: TrainConfig, record: Record) -> str:
    left = (config.schedule.epochs - record["epoch"]) * record["seconds"]
    shown = ("train/loss", "val/segm_AP", "test/segm_AP", "test/segm_AP50", "test/segm_AP75")
    figures = "  ".join(f"{key} {record[key]:.3g}" for key in shown if key in record)
    return f"epoch {record['epoch']:.0f}/{config.schedule.epochs}  {figures}  about {left:.0f} s left"


def main() -> None:
    """Run the command line."""
    app(prog_name="lncis")
