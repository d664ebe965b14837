"""/ui/studies/{id}/act: what the buttons of a study's page ask for.

A form counts only with the key of its user's pass (service.auth), which other sites cannot read; beside that the cookie
is SameSite=Strict, and the guard refuses requests of foreign pages by their Origin.
"""

import hmac
from collections.abc import Awaitable, Callable, Mapping
from urllib.parse import parse_qs

from fastapi import APIRouter, Request
from fastapi.responses import RedirectResponse, Response
from pydantic import ValidationError
from sqlalchemy.engine import Connection

from lncis.api import Action, BudgetChange, Labels
from lncis.errors import ConfigError, LncisError, StudyError
from service.api.endpoints.keeping import archived_study, labelled_study, removed_study, stopped_trial
from service.api.endpoints.studies import StudyId
from service.api.problems import Problem
from service.api.runtime import At, Runtime, caller_of_request, root_of
from service.auth import Caller
from service.store import studies as store
from service.store.adjustments import adjust_study
from service.store.database import DatabaseAway
from service.store.findings import NotRunning, UnknownTrial
from service.store.studies import IllegalAction, NotOver, StudyOver, UnknownStudy
from service.ui.rendering import error_page, signin_page

router = APIRouter(include_in_schema=False)

Form = Mapping[str, str]
MAX_FIELDS = 10

NOT_FROM_HERE = (
    "This form is not of a page of yours, or the service was started anew since: load the study's page again, and try "
    "it from there."
)
NO_FORM = "This is not what a form of these pages sends."
ONLY_READS = "This browser may only read: sign out, and sign in again with a token that may write and the box ticked."


@router.post("/ui/studies/{study_id}/act")
async def act(study_id: StudyId, request: Request, runtime: At) -> Response:
    """Do what a button asks for, and lead back to the study's page."""
    home = f"{root_of(request)}/"
    page = f"{home}ui/studies/{study_id}"
    try:
        caller = await caller_of_request(request)
        if caller is None:
            return signin_page(request, page, status=401)
        form = await _form(request)
        _check(caller, form)
        await _act(runtime, study_id, caller, form)
    except LncisError as error:
        return error_page(request, error, _status(error), back=page)
    return RedirectResponse(home if form["action"] == "delete" else page, status_code=303)


async def _form(request: Request) -> Form:
    try:
        fields = parse_qs((await request.body()).decode("utf-8", "replace"), max_num_fields=MAX_FIELDS)
    except ValueError as error:
        raise Problem(422, NO_FORM) from error
    form = {name: values[0] for name, values in fields.items()}
    if any("\0" in value for value in form.values()):  # which PostgreSQL has no text for
        raise Problem(422, NO_FORM)
    return form


def _check(caller: Caller, form: Form) -> None:
    """Raise Problem unless a form is of a page of its user, who may change studies."""
    if not caller.form_key:
        raise Problem(403, ONLY_READS)
    if not hmac.compare_digest(caller.form_key.encode(), form.get("key", "").encode()):
        raise Problem(403, NOT_FROM_HERE)


async def _act(runtime: Runtime, study_id: str, caller: Caller, form: Form) -> None:
    acts: dict[str, Callable[[], Awaitable[object]]] = {
        **{str(action): lambda action=action: _ask(runtime, study_id, action) for action in Action},  # type: ignore[misc]
        "stop": lambda: stopped_trial(runtime, study_id, form.get("trial", ""), caller.user),
        "priority": lambda: _set_priority(runtime, study_id, form.get("priority", "")),
        "budget": lambda: _set_budget(runtime, study_id, form),
        "labels": lambda: _set_labels(runtime, study_id, form.get("labels", "")),
        "archive": lambda: archived_study(runtime, study_id, archived=True),
        "unarchive": lambda: archived_study(runtime, study_id, archived=False),
        "delete": lambda: removed_study(runtime, study_id, caller.user),
    }
    if (name := form.get("action", "")) not in acts:
        raise Problem(422, NO_FORM)
    await acts[name]()


async def _ask(runtime: Runtime, study_id: str, action: Action) -> None:
    await runtime.write(lambda connection: store.request_action(connection, study_id, action))
    runtime.wake()


async def _set_priority(runtime: Runtime, study_id: str, given: str) -> None:
    try:
        priority = int(given)
    except ValueError:
        priority = None
    if priority is None or not -1000 <= priority <= 1000:
        raise Problem(422, f"A priority is a whole number from -1000 to 1000, not {given[:20]!r}.")

    def write(connection: Connection) -> None:
        adjust_study(connection, study_id, "*", priority=priority)

    await runtime.write(write)
    runtime.wake()


async def _set_budget(runtime: Runtime, study_id: str, form: Form) -> None:
    """Set the whole budget: a field that is left empty takes its limit away."""
    given = {name: form.get(name, "").strip() for name in BudgetChange.model_fields}
    try:
        limits = {name: float(text) if text else None for name, text in given.items()}
        epochs = limits["epochs"]
        whole = int(epochs) if epochs is not None and epochs.is_integer() else epochs
        change = BudgetChange.model_validate({**limits, "epochs": whole})
    except (ValueError, OverflowError) as error:
        raise Problem(
            422, "A budget has positive numbers, whole ones of epochs; an empty field is no limit."
        ) from error
    await runtime.write(lambda connection: adjust_study(connection, study_id, "*", budget=change.given))
    runtime.wake()


async def _set_labels(runtime: Runtime, study_id: str, given: str) -> None:
    words = [word.strip() for word in given.split(",") if word.strip()]
    try:
        labels = Labels(labels=words)
    except ValidationError as error:
        raise Problem(422, "Labels are up to 20 words of up to 40 characters, separated by commas.") from error
    await labelled_study(runtime, study_id, labels)


def _status(error: LncisError) -> int:
    match error:
        case Problem():
            return error.status
        case UnknownStudy() | UnknownTrial():
            return 404
        case ConfigError():
            return 422
        case IllegalAction() | NotOver() | NotRunning() | StudyOver() | StudyError():
            return 409
        case DatabaseAway():
            return 503
    return 500
