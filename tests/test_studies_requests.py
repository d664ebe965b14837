"""On a real Ray: a study is drained and goes on, one trial of it is stopped; its logs say so."""

from pathlib import Path

import pytest
import small_study

from lncis.errors import StudyError
from lncis.metrics import Record
from lncis.studies.driver import loop
from lncis.studies.record.journal import End
from lncis.studies.record.logs import DRIVER, LOGS, read
from lncis.studies.record.requests import Requests, write_requests
from lncis.studies.run import run_study
from lncis.studies.spec import Trial
from lncis.studies.study_run import Observer


class Asks(Observer):
    """Asks for something as soon as a trial has an epoch."""

    def __init__(self, study: Path, requests: Requests) -> None:
        self._study, self._requests = study, requests

    def on_epoch(self, trial: Trial, record: Record) -> None:
        write_requests(self._study, self._requests)


def test_a_drained_study_ends_what_runs_and_goes_on_without_a_trial_that_is_stopped(
    local_ray: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "REQUESTS_SECONDS", 0.0)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    spec, folder = small_study.spec(), tmp_path / "runs" / "asked"
    first, second = "0000-seed0", "0001-seed0"
    with pytest.raises(StudyError, match="1 trials of study asked did not end: a user asked to start no more"):
        run_study(spec, runs=tmp_path / "runs", study_id="asked", observers=[Asks(folder, Requests(drain=True))])
    stop = Asks(folder, Requests(stop={second: "anna"}))
    write_requests(folder, Requests())
    result = run_study(spec, runs=tmp_path / "runs", study_id="asked", observers=[stop])
    assert {trial.trial.name: trial.end for trial in result.trials} == {first: End.FINISHED, second: End.FAILED}
    driver = read(folder / LOGS, [DRIVER], offset=0, limit=10**6).text
    assert "stopped: 1 trials of study asked did not end: a user asked to start no more" in driver
    assert f"trial {second}: failed, stopped by anna" in driver
    assert driver.endswith("nothing is left to do\n")
