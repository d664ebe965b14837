"""What gpu_check.py found, and on which machine, in words and as a table."""

import os
import platform
from datetime import UTC, datetime
from typing import Any

import torch
import torchvision
from rich.console import Console
from rich.table import Table

Outcome = dict[str, Any]
"""What a part found, as JSON; `passed` false where it found a fault, None where it only measures."""


def machine(device: str) -> Outcome:
    """Return which machine this is, and the versions of what computes on it."""
    card = None
    if device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        card = {"name": properties.name, "memory_gib": properties.total_memory / 2**30}
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "card": card,
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version() if device == "cuda" else None,
    }


def show(report: Outcome) -> None:
    """Print a table of what was found."""
    of = report["machine"]
    card = of["card"]["name"] if of["card"] else "CPU, toy size: the figures mean nothing"
    table = Table(title=f"{card}, torch {of['torch']}, CUDA {of['cuda']}, {of['date']}")
    for heading in ("part", "found", "passed"):
        table.add_column(heading)
    for name, outcome in report["parts"].items():
        verdict = {True: "yes", False: "NO", None: "-"}[outcome["passed"]]
        for number, line in enumerate(lines(name, outcome)):
            table.add_row("" if number else name, line, "" if number else verdict)
    Console().print(table)


def lines(name: str, outcome: Outcome) -> list[str]:
    """Return what a part found, in words."""
    if reason := outcome.get("failed"):
        return [f"failed: {reason}"]
    if reason := outcome.get("left_out"):
        return [f"left out: {reason}"]
    match name:
        case "training":
            pace = outcome["sides"]["reference"]["images_per_second"]
            return [
                f"{side}: {one['images_per_second']:.2f} images/s ({one['images_per_second'] / pace:.2f} of the "
                f"reference), peak {one['peak_gib']:.2f} GiB, {one['outside_the_model']:.0%} outside the model"
                for side, one in outcome["sides"].items()
            ]
        case "evaluation":
            peak = "" if outcome["peak_gib"] is None else f", peak {outcome['peak_gib']:.2f} GiB"
            return [
                f"{outcome['images_per_second']:.2f} images/s with {outcome['detections_an_image']:.0f} detections an "
                f"image{peak}; AP {outcome['average_precision_seconds']:.2f} s"
            ]
        case "waiting":
            if outcome["passed"] is None:
                return ["not checked without a GPU"]
            return [
                outcome["waits"] or f"{outcome['steps']} steps, none waits for the GPU but in the model and readings"
            ]
        case "forking":
            return [
                f"fork and alone differ by {outcome['fork']:.2%}, two alone by {outcome['alone_again']:.2%}; "
                f"tolerance {outcome['tolerance']:.0%}"
            ]
        case "study":
            return [
                f"{outcome['finished']} of {outcome['trials']} trials finished in {outcome['study_seconds']:.0f} s, "
                f"{outcome['epochs_trained']:.0f} epochs trained",
                *outcome["reasons"],
            ]
    raise ValueError(name)
