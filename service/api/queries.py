"""Query parameters: one that an operation does not know, or that stands twice, is a mistake and not ignored.

So is NUL in one, which PostgreSQL has no text for.
"""

from collections import Counter
from difflib import get_close_matches

from fastapi import Request
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute

from service.api.problems import MAX_ERRORS, Problem, counted


async def only_known_queries(request: Request) -> None:
    """Refuse a request with a query parameter that would be ignored or cannot be looked for; Problem 422 names each."""
    if not request.url.query:
        return
    known = _known(request.scope["route"])
    errors = []
    for name, number in Counter(name for name, _ in request.query_params.multi_items()).items():
        if name not in known:
            near = get_close_matches(name, known, n=1)
            remedy = f"did you mean {near[0]}?" if near else f"known are {', '.join(known) or 'none'}"
            errors.append({"path": f"query.{name:.80}", "problem": f"no such parameter; {remedy}"})
        elif number > 1:
            errors.append({"path": f"query.{name:.80}", "problem": f"stands {number} times; keep one"})
        elif "\0" in request.query_params[name]:
            errors.append({"path": f"query.{name:.80}", "problem": "must be text without NUL"})
    if errors:
        raise Problem(422, counted(len(errors), "request"), errors=errors[:MAX_ERRORS])


def _known(route: APIRoute) -> list[str]:
    return sorted(_names(route.dependant))


def _names(dependant: Dependant) -> set[str]:
    names = {field.alias for field in dependant.query_params}
    return names.union(*(_names(below) for below in dependant.dependencies))
