"""The figures of a study's report, each with its title and caption."""

from collections.abc import Iterator
from dataclasses import dataclass

from matplotlib.figure import Figure

from lncis.studies.report import plots, separation
from lncis.studies.report.conclusions import tau_text
from lncis.studies.report.result import StudyResult
from lncis.studies.report.statistics import importance, importance_method


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """A figure with its title and caption."""

    title: str
    caption: str
    """What the figure shows."""
    figure: Figure


def drawings(result: StudyResult) -> Iterator[Drawing]:
    """Yield every figure that the study has data for, one after another."""
    makers = (_parameters, _learning_curves, _losses, _val_against_test, _trade_offs, _importance)
    yield from (drawing for make in makers if (drawing := make(result)))


def _parameters(result: StudyResult) -> Drawing | None:
    if not result.searched:
        return None
    spec = result.spec
    sentences = [f"Clean test AP and {spec.base.val_labels} {spec.objective.metric} against each searched parameter."]
    if len(spec.replicates) > 1:
        sentences.append("Large dots are means over the seeds, small dots single trainings.")
    else:
        sentences.append("Each dot is a training.")
    if plots.has_whiskers(result, result.searched):
        sentences.append("Whiskers are 95 % intervals.")
    if spec.baselines:
        sentences.append("Horizontal lines are baselines.")
    sentences.append(_marked(result))
    return Drawing(title="Each parameter", caption=" ".join(sentences), figure=plots.responses(result))


def _marked(result: StudyResult) -> str:
    """Return what the mark of the selected configuration says."""
    number = len(result.as_good_as_best)
    if not number:
        return "The star is the best configuration."
    if result.selection is None:
        return "The ring is the selected configuration; one seed cannot tell it apart from others."
    return "Rings are the selected configuration and those that cannot be told apart from it; there is no single best."


def _learning_curves(result: StudyResult) -> Drawing | None:
    metric = result.spec.objective.metric
    if not any(metric in record for t in result.trials for record in t.records):
        return None
    sentences = [f"{metric} after each evaluated epoch."]
    if len(result.spec.replicates) > 1:
        sentences.append("Thick lines are means over the seeds, thin lines single trainings.")
    else:
        sentences.append("Each line is a training.")
    if result.spec.baselines:
        sentences.append("Baselines are black.")
    if plots.many_configurations(result):
        sentences.append("All other configurations but the selected one are grey.")
    return Drawing(title="Learning curves", caption=" ".join(sentences), figure=plots.curves(result))


def _losses(result: StudyResult) -> Drawing | None:
    found = separation.foreground_losses(result)
    if not found:
        return None
    return Drawing(
        title="Losses of clean and flipped samples",
        caption="Cross entropy of the foreground samples that the box head was trained on in one epoch, over all "
        "seeds. Clean and flipped samples are each in percent of their own number. The last bin has all from 16 nats "
        "on. The better a loss separates the two, the better it finds wrong labels (Figure 5 of the paper).",
        figure=separation.draw_losses(found, separation.gamma_shown(result)),
    )


def _val_against_test(result: StudyResult) -> Drawing | None:
    if len(result.searched) < 3:
        return None
    labels, found = result.spec.base.val_labels, result.rank_agreement
    sentences = [
        f"Each dot is the mean of a configuration. Only {labels} val is used for selection.",
        "The closer the dots are to a rising line, the better the selection is for clean test.",
    ]
    if found:
        sentences.append(f"{tau_text(found)}.")
    return Drawing(
        title=f"{labels.capitalize()} val against clean test",
        caption=" ".join(sentences),
        figure=plots.agreement(result),
    )


def _trade_offs(result: StudyResult) -> Drawing | None:
    if not (result.searched and result.spec.secondary_objectives):
        return None
    return Drawing(
        title="Trade-offs",
        caption="Means of the configurations in the study's objectives. The Pareto front, in blue, has those that no "
        "other configuration beats in every objective.",
        figure=plots.pareto(result),
    )


def _importance(result: StudyResult) -> Drawing | None:
    shares = importance(result)
    if not shares:
        return None
    return Drawing(
        title="Importance of the parameters",
        caption=f"Share of each parameter in the variation of {result.spec.objective.metric}, by "
        f"{importance_method(result)} over {len(result.searched)} configurations. With few of them it is only a rough "
        "guide.",
        figure=plots.importances(shares),
    )
