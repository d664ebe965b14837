"""A replay as people and programs read it: a table, a document, a picture."""

import io
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from matplotlib.figure import Figure  # not pyplot: no global state, no window
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from lncis import documents
from lncis.studies.replay.curves import Curves
from lncis.studies.replay.figures import Replayed, Spread


def table(known: Curves, rows: Sequence[Replayed], remarks: Sequence[str]) -> RenderableType:
    """Return the table for a terminal, a row for each pruner, with what to know about its figures."""
    spec, winner = known.spec, known.winner
    number = len(known.curves)
    view = Table(
        title=f"{known.study_id}: {number} configurations, the winner is {winner.trial.label}",
        title_justify="left",
        title_style="bold",
    )
    sampled = any(row.sampler for row in rows)
    for heading in (
        *(("sampler",) if sampled else ()),
        "pruner",
        "rungs",
        f"epochs of {known.epochs}",
        "saved",
        "winner lost",
        "in own order",
        f"regret, {spec.objective.metric}",
        "over seeds",
    ):
        view.add_column(heading, no_wrap=heading in ("sampler", "pruner"))
    for row in rows:
        view.add_row(*((row.sampler,) if sampled else ()), *_cells(known, row))
    return Group(view, *(Text(line) for line in (*_explained(known, rows), *remarks)))


def _cells(known: Curves, row: Replayed) -> list[str]:
    rungs = ", ".join(map(str, row.rungs)) or "none"
    if row.epochs is None or row.regret is None:
        return [row.pruner, rungs, *("-",) * 6]
    lost = sum(row.winner_stopped.values()) + (row.winner_untried or 0.0)
    where = [f"{rung}: {share:.1%}" for rung, share in row.winner_stopped.items()]
    where += [f"not tried: {row.winner_untried:.1%}"] if row.winner_untried else []
    own = {None: "-", 0: "kept"}.get(row.own_order_stops, f"stopped at {row.own_order_stops}")
    return [
        row.pruner,
        rungs,
        _spread(row.epochs, ".0f"),
        f"{1 - row.epochs.mean / known.epochs:.0%}",
        f"{lost:.1%}" + (f" ({', '.join(where)})" if where else ""),
        own,
        _spread(row.regret, ".2f"),
        "-" if row.regret_over_seeds is None else f"{row.regret_over_seeds}",
    ]


def _spread(spread: Spread, digits: str) -> str:
    same = format(spread.low, digits) == format(spread.high, digits)
    between = "" if same else f" ({spread.low:{digits}} to {spread.high:{digits}})"
    return f"{spread.mean:{digits}}{between}"


def _explained(known: Curves, rows: Sequence[Replayed]) -> list[str]:
    """Return what the columns mean, and what is not known."""
    first = rows[0]
    kind = "orders of arrival" if first.every_order else "random orders of arrival"
    lines = [
        f"means over {'all ' if first.every_order else ''}{first.orders} "
        f"{'seeds of the sampler' if first.sampler else kind}, in brackets where 95 % of them lie; "
        "over seeds: the mean regret with its 95 % interval, paired by seed"
    ]
    if known.as_good:
        lines.append(
            f"the winner cannot be told apart from {known.as_good} others: to lose it says little, the regret says more"
        )
    if len(known.replicates) < 2:
        lines.append("one seed: nothing is known over seeds, and a regret may be noise")
    if known.failed:
        lines.append(f"{known.failed} configurations with a failed trial are left out")
    if known.pruned:
        lines.append(
            f"{known.pruned} configurations were pruned, and are known only up to there: orders in which one would go "
            "on are left out, which favours pruners like the study's own"
        )
    lines += [
        f"{row.pruner}: {row.unknown} of {row.orders} orders are not known and left out"
        + ("; replay a study without a pruner" if row.epochs is None else "")
        for row in rows
        if row.unknown
    ]
    return lines


def document(known: Curves, rows: Sequence[Replayed], remarks: Sequence[str]) -> dict[str, Any]:
    """Return the replay as strict JSON can hold it."""
    found: dict[str, Any] = documents.plain(
        {
            "study_id": known.study_id,
            "objective": known.spec.objective.metric,
            "winner": known.winner.trial.overrides,
            "configurations": len(known.curves),
            "left_out": known.failed,
            "pruned": known.pruned,
            "epochs": known.epochs,
            "replayed": [
                {
                    **asdict(row),
                    "winner_stopped": {str(rung): share for rung, share in row.winner_stopped.items()},
                }
                for row in rows
            ],
            "remarks": list(remarks),
        }
    )
    return found


def picture(known: Curves, rows: Sequence[Replayed]) -> bytes:
    """Return a PNG: the known curves with the winner's, and regret against epochs for each pruner."""
    figure = Figure(figsize=(11, 4.6), layout="constrained")
    curves, trade = figure.subplots(1, 2)
    for curve in known.curves:
        won = curve is known.winner
        curves.plot(
            list(curve.values),
            list(curve.values.values()),
            color="tab:blue" if won else "0.6",
            linewidth=2 if won else 0.8,
            zorder=3 if won else 2,
            label=f" {curve.trial.label}"[:48].replace("$", r"\$") if won else None,
        )
    curves.set(xlabel="epoch", ylabel=f"{known.spec.objective.metric} (%)", title="Known curves")
    curves.legend(fontsize=7)
    trade.axvline(known.epochs, color="black", linewidth=0.8, linestyle=":")
    for row in rows:
        if row.epochs is None or row.regret is None:
            continue
        x, y = row.epochs, row.regret
        trade.errorbar(
            x.mean,
            y.mean,
            xerr=[[x.mean - x.low], [x.high - x.mean]],
            yerr=[[max(0.0, y.mean - y.low)], [max(0.0, y.high - y.mean)]],
            fmt="o",
            elinewidth=0.8,
            label=f"{row.sampler} {row.pruner}".strip(),
        )
    trade.set(xlabel="epochs to train (dotted: without a pruner)", ylabel="regret (%)", title="What pruning costs")
    if trade.get_legend_handles_labels()[0]:
        figure.legend(*trade.get_legend_handles_labels(), fontsize=7, loc="outside lower right", ncols=3)
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=110)
    return image.getvalue()
