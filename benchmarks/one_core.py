"""A study's trainings one after another in this process, without Ray: for a machine that has no core to spare.

    nice python benchmarks/one_core.py studies/digits/auto.yaml /tmp/auto --set noise.type=asymmetric

Stages are shared and the numbers are those of `lncis study run`, to the bit. Seeds come one after another, each with
all configurations, so that what is there can be compared at any time; a table follows each seed. What is in the folder
already is not trained again.
"""

import argparse
import math
import time
from pathlib import Path

import torch

from lncis import datasets
from lncis.commands.study import changes_of
from lncis.detection import checkpoint, engine
from lncis.execution.tasks import Task
from lncis.metrics import AUTO_METRICS, Record
from lncis.studies.plan import plan
from lncis.studies.report.intervals import Replicate, interval
from lncis.studies.spec import Trial
from lncis.studies.spec.files import load_spec

CLEAN_AP = "test/segm_AP"


def main() -> None:
    """Train what is not there yet, and print clean test AP, paired differences from the first, and what was set."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("study", type=Path, help="YAML file of a study")
    parser.add_argument("folder", type=Path, help="where its stages are, or will be")
    parser.add_argument("--set", action="append", default=[], metavar="PATH=VALUE", help="as for `lncis study run`")
    options = parser.parse_args()
    torch.set_num_threads(1)  # as a worker with one CPU has
    planned = plan(load_spec(options.study, changes_of(options.set)))
    trials = sorted(planned.trials, key=lambda found: (found[0].noise_seed or 0, found[0].seed))
    found: dict[tuple[str, Replicate], Record] = {}
    cpu = time.process_time()
    for number, (trial, tasks) in enumerate(trials):
        for task in tasks:
            found[trial.label, trial.replicate] = _trained(task, options.folder)
        if [t.replicate for t, _ in trials[number : number + 2]] != [trial.replicate] * 2:  # the last of its seed
            _print_table([t for t, _ in planned.trials if (t.label, t.replicate) in found], found)
            print(f"{(time.process_time() - cpu) / 60:.1f} CPU minutes", flush=True)


def _trained(task: Task, folder: Path) -> Record:
    """Return the last record of a task, trained now if it is not in the folder yet."""
    directory, before = folder / task.key, folder / task.after.key if task.after else None
    if (directory / engine.CHECKPOINT).exists():
        history = checkpoint.load(directory / engine.CHECKPOINT).history
        if len(history) == task.until:
            return history[-1]
    data = datasets.load(task.config)
    if before is None:
        rates = [f"{split} {100 * manifest['realised_rate']:.1f} %" for split, manifest in data.manifests.items()]
        print(f"wrong labels: {', '.join(rates)}")
    return engine.train(task.config, data, directory, until=task.until, fork_from=before)[-1]


def _print_table(trials: list[Trial], found: dict[tuple[str, Replicate], Record]) -> None:
    labels = list(dict.fromkeys(trial.label for trial in trials))
    replicates = list(dict.fromkeys(trial.replicate for trial in trials))
    print(f"clean test AP, mean and 95 % interval over {len(replicates)} seeds, and minus {labels[0]}, paired")
    for label in labels:
        figures = [found[label, replicate][CLEAN_AP] for replicate in replicates]
        less = [f - found[labels[0], replicate][CLEAN_AP] for f, replicate in zip(figures, replicates, strict=True)]
        ap, gain = (interval(values, replicates) for values in (figures, less))
        each = " ".join(f"{figure:.2f}" for figure in figures)
        print(f"{label:40} {ap.mean:6.2f} ± {ap.half_width:.2f}  {gain.mean:+.2f} ± {gain.half_width:.2f}  [{each}]")
        for metric in AUTO_METRICS:
            values = [found[label, replicate].get(metric, math.nan) for replicate in replicates]
            if not all(map(math.isnan, values)):
                print(f"    {metric}: {' '.join(f'{value:.2f}' for value in values)}")


if __name__ == "__main__":
    main()
