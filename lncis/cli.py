"""The command `lncis`."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from lncis import documents, remote
from lncis.config import TrainConfig, Workers
from lncis.metrics import Record
from lncis.studies import command
from lncis.terminal import clear_errors

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__)
study = typer.Typer(no_args_is_help=True, help="Questions put to many trainings.")
app.add_typer(study, name="study")
study.command("run")(command.run_file)
study.command("report")(command.report_study)
study.command("submit")(remote.submit)
study.command("list")(remote.list_studies)
study.command("watch")(remote.watch)
study.command("best")(remote.best)
study.command("cancel")(remote.cancel)
study.command("pause")(remote.pause)
study.command("resume")(remote.resume)


@app.command()
def train(
    config: Annotated[Path, typer.Argument(help="A training: a YAML file, such as a study's best.yaml.")],
    out: Annotated[Path, typer.Option(help="Folder for the checkpoint; an unfinished training there goes on.")],
    num_workers: Annotated[int, typer.Option(min=0, help="Processes that share each batch; 0: no Ray.")] = 1,
    gpus_per_worker: Annotated[float, typer.Option(min=0, help="GPUs for each; 0 trains on the CPU.")] = 0,
    verbose: command.Verbose = False,
) -> None:
    """Train one configuration on Ray Train workers, or in this process."""
    with clear_errors():
        parsed = documents.load(TrainConfig, config)
        console = Console(highlight=False)

        def show(record: Record) -> bool:
            console.print(_line(parsed, record), soft_wrap=True)
            return True

        from lncis import datasets, engine  # slow to load: a mistake in the file comes first

        data = datasets.load(parsed)
        documents.claim(out, parsed)
        if num_workers == 0:
            import torch

            torch.set_num_threads(1)  # as a worker with one CPU has: the same numbers to the bit
            device = torch.device("cuda" if gpus_per_worker else "cpu")
            engine.train(parsed, data, out, device=device, on_epoch=show)
        else:
            from lncis import cluster, training

            workers = Workers(num_workers=num_workers, gpus_per_worker=gpus_per_worker)
            with cluster.connected(workers, lanes=1, verbose=verbose):
                training.fit(parsed, out, workers, on_epoch=show)
        console.print(f"checkpoint: {out / 'checkpoint.pt'}", soft_wrap=True)


def _line(config: TrainConfig, record: Record) -> str:
    left = (config.schedule.epochs - record["epoch"]) * record["seconds"]
    shown = ("train/loss", "val/segm_AP", "test/segm_AP", "test/segm_AP50", "test/segm_AP75")
    figures = "  ".join(f"{key} {record[key]:.3g}" for key in shown if key in record)
    return f"epoch {record['epoch']:.0f}/{config.schedule.epochs}  {figures}  about {left:.0f} s left"


def main() -> None:
    """Run the command line."""
    app(prog_name="lncis")
