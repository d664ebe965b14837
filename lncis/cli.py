"""The command `lncis`."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from lncis import cluster_check, data_command, documents, inference, noise_command, remote
from lncis.config import TrainConfig, Workers
from lncis.metrics import Record
from lncis.studies import command
from lncis.terminal import clear_errors

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__)
study = typer.Typer(no_args_is_help=True, help="Questions put to many trainings.")
app.command("noise")(noise_command.noise)
app.add_typer(study, name="study")
app.add_typer(data_command.app, name="data")
study.command("run")(command.run_file)
study.command("report")(command.report_study)
study.command("compare")(command.compare_studies)
study.command("submit")(remote.submit)
study.command("list")(remote.list_studies)
study.command("watch")(remote.watch)
study.command("best")(remote.best)
study.command("cancel")(remote.cancel)
study.command("pause")(remote.pause)
study.command("resume")(remote.resume)
app.command()(inference.evaluate)
app.command()(inference.predict)
app.command()(inference.weights)
cluster_app = typer.Typer(no_args_is_help=True, help="Ray clusters, as cluster.yaml describes them.")
app.add_typer(cluster_app, name="cluster")
cluster_app.command("check")(cluster_check.check_file)
cluster_app.callback()(lambda: None)  # or the one command would be the whole program


@app.command()
def train(
    config: Annotated[
        list[Path],
        typer.Argument(help="A training: a YAML file, such as a study's best.yaml; of several, later ones prevail."),
    ],
    out: Annotated[Path, typer.Option(help="Folder for the checkpoint; an unfinished training there goes on.")],
    num_workers: Annotated[int, typer.Option(min=0, help="Processes that share each batch; 0: no Ray.")] = 1,
    gpus_per_worker: Annotated[float, typer.Option(min=0, help="GPUs for each; 0 trains on the CPU.")] = 0,
    loading_processes: Annotated[int, typer.Option(min=0, help="Processes beside each that read images ahead.")] = 0,
    verbose: command.Verbose = False,
) -> None:
    """Train one configuration on Ray Train workers, or in this process."""
    with clear_errors():
        parsed = documents.load_merged(TrainConfig, config)
        asked = {
            "num_workers": num_workers,
            "gpus_per_worker": gpus_per_worker,
            "loading_processes": loading_processes,
        }
        workers = documents.parse(Workers, asked, source="options") if num_workers else None
        console = Console(highlight=False)

        def show(record: Record) -> bool:
            console.print(_line(parsed, record), soft_wrap=True)
            return True

        from lncis import datasets, engine, weights  # slow to load: a mistake in the file comes first

        if parsed.model.weights != "none":
            weights.find(parsed.model.weights)
        data = datasets.load(parsed)
        documents.claim(out, parsed)
        if workers is None:
            import torch

            torch.set_num_threads(1)  # as a worker with one CPU has: the same numbers to the bit
            device = torch.device("cuda" if gpus_per_worker else "cpu")
            engine.train(parsed, data, out, device=device, loading_processes=loading_processes, on_epoch=show)
        else:
            from lncis import cluster, training

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
