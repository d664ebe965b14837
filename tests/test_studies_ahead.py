"""How many trials are started ahead of the worker groups."""

from types import SimpleNamespace
from typing import Any

import pytest
from simulated import study

from lncis.studies.driver.loop import ahead
from lncis.studies.record.journal import EpochFinished

RANDOM = {"type": "random", "configurations": 9}


def run_of(*seconds: float, **fields: Any) -> Any:
    """A study of six epochs whose latest epochs took so long."""
    records = [{"epoch": float(number), "seconds": taken} for number, taken in enumerate(seconds, 1)]
    events = [EpochFinished(trial="0000-seed0", record=record, reused=False) for record in records]
    spec = study(**{"resources": {"max_concurrent_trials": 16}, **fields})
    return SimpleNamespace(spec=spec, journal=SimpleNamespace(events=events))


@pytest.mark.parametrize(
    ("seconds", "fields", "at_once", "more"),
    [
        ([], {}, 16, 0),  # nothing is known yet
        ([9.0, 1.0], {}, 16, 16),  # six seconds a trial
        ([1.0, 2.0], {}, 16, 0),  # twelve
        ([1.0], {"sampler": RANDOM}, 5, 5),
        ([1.0], {"sampler": RANDOM}, 256, 256),
        ([1.0], {"sampler": RANDOM}, 3, 0),
        ([1.0], {"sampler": {**RANDOM, "type": "tpe"}}, 16, 0),
        ([1.0], {"pruner": {"type": "asha"}}, 16, 0),
        ([1.0], {"budget": {"hours": 3.0}}, 16, 0),
        ([1.0], {"resources": {"max_concurrent_trials": "auto"}}, 16, 0),
    ],
)
def test_short_trials_start_ahead_where_no_result_matters(seconds, fields, at_once, more):
    assert ahead(run_of(*seconds, **fields), at_once) == more
