"""`lncis train`: one training, on Ray Train workers or in this process."""

from pathlib import Path
from typing import Annotated

import typer

from lncis import documents
from lncis.commands.study import Verbose
from lncis.config import TrainConfig, Workers
from lncis.metrics import AUTO_METRICS, Record
from lncis.terminal import PROGRESS_DELAY_SECONDS, clear_errors, console_of_plain_text, progress


def train(
    config: Annotated[
        list[Path],
        typer.Argument(help="YAML file of a training, such as a study's best.yaml; later files override earlier ones."),
    ],
    out: Annotated[Path, typer.Option(help="Folder for the checkpoint; an unfinished training there is resumed.")],
    num_workers: Annotated[
        int, typer.Option(min=0, help="Worker processes that share each batch; 0 trains in this process, without Ray.")
    ] = 1,
    gpus_per_worker: Annotated[float, typer.Option(min=0, help="GPUs of each worker; 0 trains on the CPU.")] = 0,
    loading_processes: Annotated[int, typer.Option(min=0, help="Processes of each worker that load images ahead.")] = 0,
    verbose: Verbose = False,
) -> None:
    """Train one configuration on Ray Train workers, or in this process."""
    with clear_errors():
        parsed = documents.load_merged(TrainConfig, config)
        options = {
            "num_workers": num_workers,
            "gpus_per_worker": gpus_per_worker,
            "loading_processes": loading_processes,
        }
        workers = documents.parse(Workers, options, source="options") if num_workers else None
        console = console_of_plain_text()

        def show(record: Record) -> bool:
            console.print(_line(parsed, record), soft_wrap=True)
            return True

        from lncis import datasets  # slow to load: a mistake in the file is reported first
        from lncis.detection import engine
        from lncis.detection.mask_rcnn import weights

        if parsed.model.weights != "none":
            weights.find(parsed.model.weights)
        data = datasets.load(parsed)
        with progress(PROGRESS_DELAY_SECONDS) as shown:
            remarks = datasets.inspect(parsed.dataset, data, shown)
        for remark in remarks:
            console.print(f"note: {remark}", soft_wrap=True)
        documents.claim(out, parsed)
        if workers is None:
            import torch

            torch.set_num_threads(1)  # as a worker with one CPU has: the same numbers to the bit
            device = torch.device("cuda" if gpus_per_worker else "cpu")
            engine.train(parsed, data, out, device=device, loading_processes=loading_processes, on_epoch=show)
        else:
            from lncis.execution import cluster
            from lncis.execution import worker_groups as training

            with cluster.connected(workers, worker_groups=1, verbose=verbose):
                training.fit(parsed, out, workers, on_epoch=show)
        console.print(f"checkpoint: {out / 'checkpoint.pt'}", soft_wrap=True)


def _line(config: TrainConfig, record: Record) -> str:
    left = (config.schedule.epochs - record["epoch"]) * record["seconds"]
    shown = ("train/loss", "val/segm_AP", "test/segm_AP", "test/segm_AP50", "test/segm_AP75", *AUTO_METRICS)
    figures = "  ".join(f"{key} {record[key]:.3g}" for key in shown if key in record)
    return f"epoch {record['epoch']:.0f}/{config.schedule.epochs}  {figures}  about {left:.0f} s left"
