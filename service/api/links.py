"""Links that depend on where things are now: they are made when a study is read, not when it ran."""

from urllib.parse import quote

from lncis import api
from service.settings import Settings
from service.store.tables import Study


def run_url(settings: Settings, study: Study) -> str | None:
    """Return where a browser finds a study's run in MLflow; None without a server, or before there is a run.

    `workflowType` opens MLflow's pages for trainings; its others are for language models.
    """
    uri, run = settings.mlflow_tracking_uri.rstrip("/"), study.mlflow_run
    if run is None or not uri.startswith(("http://", "https://")):
        return None
    place = f"experiments/{quote(run['experiment_id'], safe='')}/runs/{quote(run['run_id'], safe='')}"
    return f"{uri}/#/{place}?workflowType=machine_learning"


def shown(study: Study, settings: Settings) -> api.Study:
    """Return what is answered of a study that was read with its spec."""
    return api.Study.model_validate(study).model_copy(update={"mlflow_url": run_url(settings, study)})


def summary(study: Study, settings: Settings) -> api.StudySummary:
    """Return what a list shows of a study."""
    return api.StudySummary.model_validate(study).model_copy(update={"mlflow_url": run_url(settings, study)})
