"""What a study found, as one HTML file: it opens without a server, loads nothing and runs no script."""

import base64
import io
import time
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from lncis import documents
from lncis.studies.journal import End
from lncis.studies.report import plots, table
from lncis.studies.report.cost import Cost
from lncis.studies.report.result import ConfigurationResult, StudyResult, paired_difference
from lncis.studies.report.statistics import ranked

TEMPLATE = "report.html.j2"

CONFIGURATIONS, LOSSES = 1000, 300
"""Rows of the tables; the rest is in table.csv."""

INCH, RESOLUTION = 90, 1.6
"""Width of an inch of a figure in the page's pixels, and how many of its own it has for each of these."""

COST = {
    "requested": "epochs, if each trial had been trained alone to its end",
    "trained": "epochs that the study trained",
    "shared": "epochs that a trial had from another one of the study",
    "reused": "epochs that came from earlier studies",
    "skipped": "epochs that pruned, failed and unfinished trials have not come to",
    "wasted": "epochs of those trained that served failed trials alone",
    "training_seconds": "worker-seconds of training and evaluation",
    "held_seconds": "worker-seconds for which the study held workers",
    "lost_seconds": "worker-seconds lost when workers, or the study, were killed",
    "seconds": "seconds of wall time",
}
"""Fields of Cost, as the report calls them."""


def render(result: StudyResult) -> str:
    """Return the report of a study, finished or not."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    spec = result.spec
    baselines = [c for c in result.configurations if c.trial.baseline is not None]
    searched = ranked(result)
    return environment.get_template(TEMPLATE).render(
        study_id=result.study_id,
        spec=spec,
        about=table.title(result).removeprefix(f"{spec.name}: "),
        findings=_findings(result),
        parameters=_short(list(spec.search)),
        headings=[table.heading(spec, objective) for objective in spec.objectives],
        figures=table.FIGURES,
        paper_figures=", ".join(table.FIGURES[: table.paper_figures(spec)]),
        baselines=[c.trial.label for c in baselines],
        rows=_rows(result, baselines, [*baselines, *searched[:CONFIGURATIONS]]),
        hidden=max(0, len(searched) - CONFIGURATIONS),
        front=_front(result),
        drawings=[_picture(drawing) for drawing in plots.drawings(result)],
        cost=_cost(result.cost),
        losses=_losses(result),
        hidden_losses=max(0, sum(t.end in (End.FAILED, End.PRUNED) for t in result.trials) - LOSSES),
        best=table.best_yaml(result) if result.searched else None,
        document=documents.to_yaml(spec),
        versions=result.versions,
        written=time.strftime("%Y-%m-%d %H:%M"),
    )


def _findings(result: StudyResult) -> list[tuple[str, list[str]]]:
    """Return the conclusions, each with the lines that belong under it."""
    found: list[tuple[str, list[str]]] = []
    for line in table.conclusions(result):
        if line.startswith("  "):
            found[-1][1].append(line.strip())
        else:
            found.append((line.removeprefix(f"{table.BEST} ").removeprefix(f"{table.FRONT} "), []))
    return found


def _short(paths: list[str]) -> list[str]:
    """Return the last parts of dotted paths, or the whole where two would be the same."""
    short = [path.rpartition(".")[2] for path in paths]
    return short if len(set(short)) == len(short) else paths


def _rows(
    result: StudyResult, baselines: list[ConfigurationResult], shown: list[ConfigurationResult]
) -> list[dict[str, Any]]:
    """Return what the table says of each configuration."""
    spec, (best, front) = result.spec, table.marked(result)
    return [
        {
            "number": c.trial.configuration,
            "baseline": c.trial.baseline,
            "values": [table.value_text(c.trial.overrides.get(path, "-")) for path in spec.search],
            "best": c.trial.configuration == best,
            "front": c.trial.configuration in front,
            "objectives": [f"{c.over_seeds(objective.metric)}" for objective in spec.objectives],
            "tests": [f"{c.over_seeds(f'test/segm_{figure}')}" for figure in table.FIGURES],
            "over": [
                "" if c is baseline else f"{paired_difference(c, baseline, table.CLEAN_AP):+}" for baseline in baselines
            ],
            "paper": (row := table.paper_row(spec, c)) and row.text.split(),
            "state": table.state(result, c),
        }
        for c in shown
    ]


def _front(result: StudyResult) -> list[dict[str, Any]]:
    """Return the Pareto front in the order of the objective, where there are secondary objectives."""
    if not (result.searched and result.spec.secondary_objectives):
        return []
    front = {c.trial.configuration for c in result.pareto_front}
    return _rows(result, [], [c for c in ranked(result) if c.trial.configuration in front])


def _losses(result: StudyResult) -> list[dict[str, Any]]:
    """Return the trials that failed, then those that were pruned."""
    return [
        {
            "label": t.trial.label,
            "replicate": t.trial.replicate,
            "end": t.end,
            "epoch": int(t.records[-1]["epoch"]) if t.records else 0,
            "reason": t.reason,
        }
        for end in (End.FAILED, End.PRUNED)
        for t in result.trials
        if t.end is end
    ][:LOSSES]


def _cost(cost: Cost) -> list[tuple[str, str, str]]:
    figures = {name: getattr(cost, name) for name in COST}
    return [(name.replace("_", " "), f"{figures[name]:,.0f}", meaning) for name, meaning in COST.items()]


def _picture(drawing: plots.Drawing) -> dict[str, Any]:
    """Return a figure as the page shows it: PNG, because 3000 dots and curves are large as SVG."""
    content = io.BytesIO()
    drawing.figure.savefig(content, format="png", dpi=RESOLUTION * INCH)
    return {
        "title": drawing.title,
        "caption": drawing.caption,
        "source": f"data:image/png;base64,{base64.b64encode(content.getvalue()).decode()}",
        "width": round(INCH * drawing.figure.get_figwidth()),
    }
