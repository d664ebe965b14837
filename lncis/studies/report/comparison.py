"""Studies side by side: the same configurations under different noise, as in the paper's Tables 1 to 3."""

import math
from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from lncis.studies.report.conclusions import CLEAN_AP, replicates
from lncis.studies.report.intervals import ONE_DRAW, Interval
from lncis.studies.report.result import ConfigurationResult, StudyResult, of_one_draw, paired_difference
from lncis.studies.report.table import described, paper_row, realised


def comparison_table(results: Sequence[StudyResult]) -> RenderableType:
    """Return a table with a row for each configuration and a column for each study, in clean test AP.

    Below each configuration are the gain over the first baseline, paired by seed, and the paper's figures.
    """
    table = Table(title=Text(_title(results), style="bold"), title_justify="left")
    table.add_column("clean test AP", overflow="fold")
    for result in results:
        noise = described(result.spec.base.noise).replace(" noise ", " ")
        table.add_column("\n".join(filter(None, (noise, realised(result)))), justify="right")
    for label in dict.fromkeys(c.trial.label for result in results for c in result.configurations):
        found = [(result, _labelled(result, label)) for result in results]
        table.add_row(Text(label), *(f"{c.over_seeds(CLEAN_AP)}" if c else "-" for _, c in found))
        of_each = [_gain(result, c) if c else None for result, c in found]
        if any(gains := [f"{gain:+}" if gain else "" for gain in of_each]):
            table.add_row(Text("  over the baseline"), *gains)
        if any(figures := [_paper_figures(result, c) if c else "" for result, c in found]):
            table.add_row(Text("  paper", style="dim"), *(Text(text, style="dim") for text in figures))
        table.add_section()
    return Group(table, *map(Text, _notes(results)))


def _title(results: Sequence[StudyResult]) -> str:
    names = dict.fromkeys(result.spec.name for result in results)
    seeds = dict.fromkeys(replicates(result.spec) for result in results)
    one_draw = f" {ONE_DRAW}" if any(of_one_draw(result.spec) for result in results) else ""
    return f"{', '.join(names)}: {' or '.join(seeds)}, mean ± 95 % CI{one_draw}"


def _notes(results: Sequence[StudyResult]) -> list[str]:
    """Return the lines below the table: what is unfinished, how to read many gains, where the paper has its figures."""
    unfinished = [result.study_id for result in results if not result.complete]
    papers = dict.fromkeys(result.spec.paper.table for result in results if result.spec.paper)
    first = [f"unfinished: {', '.join(unfinished)}"] if unfinished else []
    gains = sum(math.isfinite(gain.half_width) for r in results for c in r.configurations if (gain := _gain(r, c)))
    if gains > 1:
        first.append(
            f"each interval holds 95 % by itself: of {gains} gains of nothing, {0.05 * gains:.1f} would exclude 0"
        )
    return [*first, *(f"paper: {paper}" for paper in papers)]


def _labelled(result: StudyResult, label: str) -> ConfigurationResult | None:
    return next((c for c in result.configurations if c.trial.label == label), None)


def _gain(result: StudyResult, configuration: ConfigurationResult) -> Interval | None:
    """Return the gain over the first baseline; None for that baseline itself, and without one."""
    baseline = next((c for c in result.configurations if c.trial.baseline is not None), None)
    if baseline is None or configuration is baseline:
        return None
    return paired_difference(configuration, baseline, CLEAN_AP)


def _paper_figures(result: StudyResult, configuration: ConfigurationResult) -> str:
    row = paper_row(result.spec, configuration)
    return row.text if row else ""
