"""Studies side by side: the same configurations under other noise, as in the paper's Tables 1 to 3."""

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from lncis.studies.report.result import ConfigurationResult, StudyResult, paired_difference
from lncis.studies.report.table import CLEAN_AP, described, paper_row, replicates


def view(results: Sequence[StudyResult]) -> RenderableType:
    """Return a table with a row for each configuration and a column for each study, in clean test AP.

    Below each configuration stand the gain over the first baseline, paired by seed, and what the paper got.
    """
    table = Table(title=Text(_title(results), style="bold"), title_justify="left")
    table.add_column("clean test AP", overflow="fold")
    for result in results:
        table.add_column(f"{described(result.spec.base.noise).replace(' noise ', ' ')}", justify="right")
    for label in dict.fromkeys(c.trial.label for result in results for c in result.configurations):
        found = [_of(result, label) for result in results]
        table.add_row(Text(label), *("-" if c is None else f"{c.over_seeds(CLEAN_AP)}" for c in found))
        gains = [_gain(result, c) for result, c in zip(results, found, strict=True)]
        if any(gains):
            table.add_row(Text("  over the baseline"), *gains)
        rows = [c and paper_row(result.spec, c) for result, c in zip(results, found, strict=True)]
        if any(rows):
            table.add_row(Text("  paper", style="dim"), *(Text(row.text if row else "", style="dim") for row in rows))
        table.add_section()
    unfinished = [result.study_id for result in results if not result.complete]
    notes = [f"unfinished: {', '.join(unfinished)}"] if unfinished else []
    papers = dict.fromkeys(result.spec.paper.table for result in results if result.spec.paper)
    return Group(table, *(Text(line) for line in [*notes, *(f"paper: {paper}" for paper in papers)]))


def _title(results: Sequence[StudyResult]) -> str:
    names = dict.fromkeys(result.spec.name for result in results)
    seeds = dict.fromkeys(replicates(result.spec) for result in results)
    return f"{', '.join(names)}: {' or '.join(seeds)}, mean ± 95 % CI"


def _of(result: StudyResult, label: str) -> ConfigurationResult | None:
    return next((c for c in result.configurations if c.trial.label == label), None)


def _gain(result: StudyResult, configuration: ConfigurationResult | None) -> str:
    baseline = next((c for c in result.configurations if c.trial.baseline is not None), None)
    if configuration is None or baseline is None or configuration is baseline:
        return ""
    return f"{paired_difference(configuration, baseline, CLEAN_AP):+}"
