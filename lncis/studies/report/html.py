"""The report of a study as one HTML file, which opens without a server, loads nothing and runs no script."""

import time
from pathlib import Path
from typing import Any

from lncis import documents, pages
from lncis.studies.record.journal import End
from lncis.studies.report import table
from lncis.studies.report.conclusions import CLEAN_AP, MARKS, best_and_front, best_group, conclusions, percent
from lncis.studies.report.cost import Cost
from lncis.studies.report.drawings import Drawing, drawings
from lncis.studies.report.intervals import ONE_DRAW
from lncis.studies.report.result import ConfigurationResult, StudyResult, of_one_draw, paired_difference
from lncis.studies.report.statistics import ranked
from lncis.studies.spec import short_names, value_text

TEMPLATE = Path(__file__).with_name("report.html.j2")

CONFIGURATIONS, LOSSES = 1000, 300
"""Most rows of the tables; the rest is in table.csv."""

INCH, RESOLUTION = 90, 1.6
"""Pixels of the page to an inch of a figure, and pixels of the picture to one of the page."""

COST = {
    "requested": "epochs, if each trial had been trained alone to its end",
    "trained": "epochs that this study trained",
    "shared": "epochs that another trial of the study trained",
    "reused": "epochs from earlier studies, found in the stage store",
    "skipped": "epochs that pruned, failed and unfinished trials did not reach",
    "wasted": "trained epochs that only failed trials used",
    "training_seconds": "worker-seconds of training and evaluation",
    "held_seconds": "worker-seconds for which the study held its workers, idle or not",
    "lost_seconds": "worker-seconds of training lost when workers or the study were killed",
    "seconds": "seconds of wall time",
}
"""Fields of Cost, and what the report says of each."""


def report_html(result: StudyResult) -> str:
    """Return the report of a study, finished or not."""
    spec = result.spec
    baselines = [c for c in result.configurations if c.trial.baseline is not None]
    searched = ranked(result)
    return pages.template(TEMPLATE).render(
        study_id=result.study_id,
        spec=spec,
        about=table.study_title(result).removeprefix(f"{spec.name}: "),
        findings=_findings(result),
        parameters=short_names(list(spec.search)),
        headings=[table.objective_heading(spec, objective) for objective in spec.objectives],
        figures=table.FIGURES,
        paper_figures=", ".join(table.FIGURES[: table.paper_figures(spec)]),
        baselines=[c.trial.label for c in baselines],
        rows=_rows(result, baselines, [*baselines, *searched[:CONFIGURATIONS]]),
        hidden=max(0, len(searched) - CONFIGURATIONS),
        front=_front(result),
        chances=bool(result.probability_of_best),
        one_draw=ONE_DRAW if of_one_draw(spec) else "",
        drawings=[_picture(drawing) for drawing in drawings(result)],
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
    for line in conclusions(result):
        if line.startswith("  "):
            found[-1][1].append(line.strip())
        else:
            found.append((line.removeprefix(f"{line[:1]} ") if line[:1] in MARKS else line, []))
    return found


def _rows(
    result: StudyResult, baselines: list[ConfigurationResult], shown: list[ConfigurationResult]
) -> list[dict[str, Any]]:
    """Return the cells of the table, a dictionary for each configuration."""
    spec, (best, front) = result.spec, best_and_front(result)
    group, chances = best_group(result), result.probability_of_best
    return [
        {
            "number": c.trial.configuration,
            "baseline": c.trial.baseline,
            "values": [value_text(c.trial.overrides.get(path, "-")) for path in spec.search],
            "selected": c.trial.configuration == best,
            "badge": _badge(c.trial.configuration, best, group if result.selection else set()),
            "chance": percent(chances[c.trial.configuration]) if c.trial.configuration in chances else "",
            "front": c.trial.configuration in front,
            "objectives": [f"{c.over_seeds(objective.metric)}" for objective in spec.objectives],
            "tests": [f"{c.over_seeds(f'test/segm_{figure}')}" for figure in table.FIGURES],
            "over": [
                "" if c is baseline else f"{paired_difference(c, baseline, CLEAN_AP):+}" for baseline in baselines
            ],
            "paper": (row := table.paper_row(spec, c)) and row.text.split(),
            "state": table.configuration_state(result, c),
        }
        for c in shown
    ]


def _badge(number: int, selected: int | None, group: set[int]) -> str:
    """Return what the table says of a configuration beside the selected one; best where it stands alone."""
    if number == selected:
        return "best" if len(group) == 1 else "selected"
    return "not told apart" if number in group else ""


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


def _picture(drawing: Drawing) -> dict[str, Any]:
    """Return a figure for the page."""
    return {
        "title": drawing.title,
        "caption": drawing.caption,
        "source": pages.embedded(drawing.figure, RESOLUTION * INCH),
        "width": round(INCH * drawing.figure.get_figwidth()),
    }
