"""The paths of the service's studies, trials and logs."""

from lncis.errors import ConfigError


def path_of_study(study_id: str, part: str = "") -> str:
    """Return a study's path; an id that cannot be one gets no further."""
    if not (study_id.isascii() and study_id and all(c.isalnum() or c in "._-" for c in study_id)) or ".." in study_id:
        raise ConfigError("study", [f"an id has letters, digits, dots, dashes and underscores but got {study_id!r}"])
    return f"/studies/{study_id}" + (f"/{part}" if part else "")


def path_of_trial(study_id: str, trial: str, part: str) -> str:
    """Return a path of a trial."""
    return f"{path_of_study(study_id, 'trials')}{path_of_study(trial, part).removeprefix('/studies')}"


def path_of_log(study_id: str, trial: str | None) -> str:
    """Return the path of the log of a trial, or of a study's driver."""
    return path_of_study(study_id, "log") if trial is None else path_of_trial(study_id, trial, "log")
