"""The picture of Figure 5, from made-up studies and histograms."""

from pathlib import Path

import numpy as np
import pytest
from test_studies_report import check_page, small

from lncis.detection import histograms
from lncis.detection.histograms import BIN_NATS, BINS, LossHistogram
from lncis.studies.report import html, separation
from lncis.studies.report.drawings import drawings

TITLE = "Losses of clean and flipped samples"


def counts(**by_nats: int) -> list[int]:
    """So many samples in the bin that begins at so many nats: `at_6=3`."""
    found = [0] * BINS
    for nats, number in by_nats.items():
        found[int(int(nats.removeprefix("at_")) / BIN_NATS)] = number
    return found


@pytest.fixture
def result(tmp_path: Path):
    """Of gamma = 5, the best, and the baseline both seeds kept their histograms; of the others none did."""
    result = small(tmp_path)
    best, baseline = result.best, result.configurations[0]
    for c, flipped in ((best, counts(at_2=10, at_5=70, at_9=20)), (baseline, counts(at_0=100))):
        for trial in c.trials:
            of_epoch = {1: counts(at_3=1), 2: counts(at_4=8), 3: counts(at_3=1), 4: counts(at_0=97, at_5=1, at_15=2)}
            histograms.write(
                [LossHistogram(epoch=e, clean=clean, flipped=flipped) for e, clean in of_epoch.items()], trial.directory
            )
    return result


def test_best_and_baseline_are_shown_at_the_end_of_stage_1_and_at_the_end(result):
    shown = separation.foreground_losses(result)
    assert [[(one.label, one.epoch) for one in row] for row in shown] == [
        [("gamma = 5", 2), ("gamma = 5", 4)],
        [("ce", 2), ("ce", 4)],
    ]
    end = shown[0][1]
    assert end.clean.tolist() == [2 * n for n in counts(at_0=97, at_5=1, at_15=2)], "both seeds"
    assert end.flipped.sum() == 200


def test_each_kind_is_in_percent_of_its_own_and_those_above_gamma_are_told(result):
    axes = separation.draw_losses(separation.foreground_losses(result), 5.0).axes
    assert len(axes) == 4
    end = axes[1]
    assert "gamma = 5: epoch 4" in end.get_title()
    outlines = [patch.get_data() for patch in end.patches if not patch.get_fill()]
    both = (counts(at_0=97, at_5=1, at_15=2), counts(at_2=10, at_5=70, at_9=20))
    for outline, expected in zip(outlines, both, strict=True):
        assert outline.values == pytest.approx(expected)
        assert outline.edges == pytest.approx(0.25 * np.arange(66))
    assert [text.get_text() for text in end.texts] == ["above 5: 3 % of clean, 90 % of flipped"]
    assert list(end.lines[0].get_xdata()) == [5, 5]
    assert axes[0].get_xlim()[1] == 15.25


def test_a_gamma_between_two_bins_is_shown_at_the_higher_edge_and_an_infinite_one_nowhere(result):
    shown = separation.foreground_losses(result)
    between = separation.draw_losses(shown, 4.9).axes[1]
    assert between.texts[0].get_text() == "above 5: 3 % of clean, 90 % of flipped"
    nowhere = separation.draw_losses(shown, float("inf")).axes[1]
    assert not nowhere.texts and not nowhere.lines


def test_the_gamma_is_that_of_the_best(result):
    assert separation.gamma_shown(result) == 5.0


def test_it_is_in_the_report_where_the_histograms_were_kept(result):
    assert TITLE in [drawing.title for drawing in drawings(result)]
    assert TITLE in "".join(check_page(html.report_html(result)).words)
    for trial in result.trials:
        (trial.directory / histograms.FILE).unlink(missing_ok=True)
    assert TITLE not in [drawing.title for drawing in drawings(result)]


def test_a_training_of_which_one_epoch_was_kept_is_one_picture(result):
    for trial in result.configurations[0].trials:
        histograms.write(histograms.read(trial.directory)[-1:], trial.directory)
    grid = separation.draw_losses(separation.foreground_losses(result), 6.0).axes
    assert [axes.axison for axes in grid] == [True, True, True, False]
