"""Errors as RFC 9457 problem documents: every answer from 400 up is one."""

import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from lncis import documents
from lncis.errors import ConfigError, LncisError, StorageError, StudyError
from service.api.methods import allowed
from service.store.database import DatabaseAway
from service.store.findings import NotRunning, UnknownTrial
from service.store.studies import IllegalAction, KeyTaken, NotOver, StaleRevision, StudyOver, UnknownStudy

MEDIA_TYPE = "application/problem+json"

MAX_ERRORS = 100
"""Mistakes, and differing fields, that a problem document lists; its detail counts all of them."""
MAX_TEXT = 500
"""Characters of a path, of a mistake, and of a value in a problem document."""

log = logging.getLogger("lncis.service")


class Problem(LncisError):
    """A request that is refused, with its HTTP status."""

    def __init__(self, status: int, detail: str, *, headers: Mapping[str, str] | None = None, **more: Any) -> None:
        super().__init__(detail)
        self.status, self.headers, self.more = status, headers, more


def field_errors(error: ConfigError) -> list[dict[str, str]]:
    """Return the mistakes of a document, each with its path: the first ones, if there are many."""
    found = []
    for line in error.problems[:MAX_ERRORS]:
        path, colon, problem = line.partition(": ")
        dotted = bool(colon) and " " not in path
        found.append({"path": _short(path) if dotted else "", "problem": _short(problem if dotted else line)})
    return found


def _short(text: str) -> str:
    return text if len(text) <= MAX_TEXT else f"{text[: MAX_TEXT - 3]}..."


def counted(number: int, what: str) -> str:
    """Return how many mistakes there are, and that not all are listed."""
    more = f"; the first {MAX_ERRORS} are listed" if number > MAX_ERRORS else ""
    return f"{number} mistake{'s' if number != 1 else ''} in the {what}{more}"


def response(status: int, detail: str, *, headers: Mapping[str, str] | None = None, **more: Any) -> Response:
    """Return a problem document as an answer."""
    document = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, "detail": detail, **more}
    return JSONResponse(document, status_code=status, media_type=MEDIA_TYPE, headers=dict(headers or {}))


def _of(error: LncisError) -> Response:
    match error:
        case Problem():
            return response(error.status, str(error), headers=error.headers, **error.more)
        case ConfigError():
            return response(422, counted(len(error.problems), "study"), errors=field_errors(error))
        case UnknownStudy() | UnknownTrial():
            return response(404, str(error))
        case IllegalAction():
            return response(409, str(error), state=error.study.state, legal=error.legal)
        case NotOver():
            return response(409, str(error), state=error.study.state, legal=error.study.legal)
        case StudyError() | NotRunning():
            return response(409, str(error))
        case StudyOver():
            return response(409, str(error), state=error.study.state, legal=[])
        case KeyTaken():
            fields = documents.differences(error.earlier, error.now)[:MAX_ERRORS]
            return response(409, str(error), study=error.study_id, differing=[_shown(field) for field in fields])
        case StaleRevision():
            return response(412, str(error))
        case StorageError():
            log.error("%s", error)
            return response(503, str(error), headers={"Retry-After": "60"})
        case DatabaseAway():
            log.error("%s", error)
            return response(503, str(error), headers={"Retry-After": "5"})
    log.error("%s", error)
    return response(500, str(error))


def _shown(difference: Mapping[str, Any]) -> dict[str, Any]:
    """Return a difference whose values are cut where they are long: what a body holds is not sent back twice."""
    values = {name: difference[name] for name in ("earlier", "now")}
    cut = {
        name: value if len(text := json.dumps(value)) <= MAX_TEXT else _short(text) for name, value in values.items()
    }
    return {"path": _short(difference["path"]), **cut}


async def _lncis(request: Request, error: Exception) -> Response:
    assert isinstance(error, LncisError)
    return _of(error)


async def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    headers = {"Allow": allowed(request)} if error.status_code == 405 else error.headers
    return response(error.status_code, str(error.detail), headers=headers)


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    found = error.errors()
    errors = [
        {
            "path": _short(".".join(str(part) for part in e["loc"])),
            "problem": f"{_short(e['msg'])} but got {e.get('input')!r:.200}",
        }
        for e in found[:MAX_ERRORS]
    ]
    return response(422, counted(len(found), "request"), errors=errors)


async def _gone(request: Request, error: Exception) -> Response:
    """Answer a client that went away before its body had arrived: for the metrics, as nobody reads it."""
    return response(400, "the connection ended before the body had arrived")


async def _unexpected(request: Request, error: Exception) -> Response:
    log.exception("unexpected error", exc_info=error)
    return response(500, "an internal error of the service; its log says more")


def install(app: FastAPI) -> None:
    """Make every error of an app a problem document."""
    handlers: dict[type[Exception], Callable[[Request, Exception], Awaitable[Response]]] = {
        LncisError: _lncis,
        HTTPException: _http,
        RequestValidationError: _invalid,
        ClientDisconnect: _gone,
        Exception: _unexpected,
    }
    for kind, handler in handlers.items():
        app.add_exception_handler(kind, handler)


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return OpenAPI's entries for the problems that an operation may answer with, those of every one included."""
    return refusals(401, 403, 413, 422, 503, *statuses)


def refusals(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return OpenAPI's entries for some problems, and no others."""
    schema = {"$ref": "#/components/schemas/ProblemDocument"}
    return {
        status: {
            "description": HTTPStatus(status).phrase,
            "content": {MEDIA_TYPE: {"schema": schema}},
        }
        for status in sorted(set(statuses))
    }
