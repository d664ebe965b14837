"""/ui/signin and /ui/signout: a browser shows its token once, and gets a pass (service.auth)."""

import math
import time
from urllib.parse import parse_qs

from fastapi import APIRouter, Request
from fastapi.responses import RedirectResponse, Response

from service.api.runtime import At, root_of
from service.auth import PASS_COOKIE, PASS_SECONDS, caller_of_pass, new_pass
from service.store.passes import end_pass
from service.ui.rendering import own, signin_page

router = APIRouter(include_in_schema=False)


@router.post("/ui/signin")
async def signin(request: Request, runtime: At) -> Response:
    """Give a browser a pass for its token, and send it back to the page that it asked for."""
    try:
        form = parse_qs((await request.body()).decode("utf-8", "replace"), max_num_fields=10)
    except ValueError:
        return signin_page(request, "/", status=422, complaint="This is not what the form below sends.")
    secret, then = form.get("token", [""])[0], form.get("then", ["/"])[0]
    address = request.client.host if request.client else ""
    if (wait := runtime.signins.wait_seconds(address)) > 0:
        refusal = signin_page(
            request, then, status=429, complaint="There were too many wrong tokens; try again in a minute."
        )
        refusal.headers["Retry-After"] = str(math.ceil(wait))
        return refusal
    made = new_pass(secret, runtime.settings.tokens, acts="acts" in form)
    if made is None:
        runtime.signins.note_wrong(address)
        return signin_page(request, then, status=401, complaint="This is not a token of this service.")
    answer = RedirectResponse(own(then, root_of(request)), status_code=303)
    secure = request.url.scheme == "https"
    answer.set_cookie(
        PASS_COOKIE,
        made,
        max_age=PASS_SECONDS,
        path=f"{root_of(request)}/",
        secure=secure,
        httponly=True,
        samesite="strict",
    )
    return answer


@router.post("/ui/signout")
async def signout(request: Request, runtime: At) -> Response:
    """End a browser's pass, also for who has a copy of it."""
    if caller := caller_of_pass(request.cookies.get(PASS_COOKIE), runtime.settings.tokens):
        until = time.time() + PASS_SECONDS
        await runtime.write(lambda connection: end_pass(connection, caller.pass_id, until))
    home = f"{root_of(request)}/"
    answer = RedirectResponse(home, status_code=303)
    answer.delete_cookie(PASS_COOKIE, path=home, httponly=True, samesite="strict")
    return answer
