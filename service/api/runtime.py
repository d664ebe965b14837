"""What the endpoints of one app work with, and which user sends a request."""

import asyncio
import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Annotated, TypeVar

import httpx2
from fastapi import Depends, Request
from fastapi.security import HTTPBearer
from sqlalchemy.engine import Connection

from service.api.attempts import Attempts
from service.api.metrics import Metrics
from service.api.problems import Problem
from service.api.submission.plans import Planner
from service.auth import PASS_COOKIE, Caller, caller_of, caller_of_pass, form_key
from service.dispatch.waiting import HeartbeatWatch
from service.settings import Settings
from service.store.database import Database
from service.store.passes import is_ended

Answer = TypeVar("Answer")

READERS = 4
"""Threads that read the database; Python runs them in turns, so more of them would only wait."""
JUDGES, JUDGES_OF_LARGE = 2, 1
"""Threads that judge studies: those of small ones never wait for a large one."""
LOOKERS = 8
"""Threads that read the files of studies."""
MLFLOW_TIMEOUT_SECONDS = 2.0


@dataclass(kw_only=True)
class Runtime:
    """The parts of one app."""

    settings: Settings
    database: Database
    planner: Planner
    wake: Callable[[], None]
    """Make the dispatcher take its next turn at once."""
    heartbeats: HeartbeatWatch
    metrics: Metrics = field(default_factory=Metrics)
    signins: Attempts = field(default_factory=Attempts)
    """Sign-ins with a wrong token."""
    secret: bytes = field(default_factory=partial(secrets.token_bytes, 32), repr=False)
    """Of this process: makes the keys of forms where there are no tokens."""
    streams: int = 0
    """Event streams that are open."""
    stopping: bool = False
    readers: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(READERS, "database-reader"))
    judges: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(JUDGES, "judge"))
    judges_of_large: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(JUDGES_OF_LARGE, "judge-l"))
    lookers: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(LOOKERS, "files"))
    http: httpx2.AsyncClient = field(default_factory=lambda: httpx2.AsyncClient(timeout=MLFLOW_TIMEOUT_SECONDS))

    async def read(self, work: Callable[[Connection], Answer]) -> Answer:
        """Return the result of a function that reads the database."""
        return await asyncio.get_running_loop().run_in_executor(self.readers, self.database.read, work)

    async def judge(self, work: Callable[[], Answer], *, large: bool) -> Answer:
        """Return the result of a function that reads or judges a body, while other requests are answered."""
        threads = self.judges_of_large if large else self.judges
        return await asyncio.get_running_loop().run_in_executor(threads, work)

    async def look(self, work: Callable[[], Answer]) -> Answer:
        """Return the result of a function that works with files, or with a storage, which may be slow."""
        return await asyncio.get_running_loop().run_in_executor(self.lookers, work)

    async def close(self) -> None:
        """End all threads, and connections to others."""
        self.planner.close()
        for threads in (self.readers, self.judges, self.judges_of_large, self.lookers):
            threads.shutdown(cancel_futures=True)
        await self.http.aclose()

    async def write(self, work: Callable[[Connection], Answer]) -> Answer:
        """Return the result of a function that writes to the database, once it is on the disk."""
        return await asyncio.wrap_future(self.database.submit(work))


def runtime_of(request: Request) -> Runtime:
    """Return the parts of the app that received a request."""
    runtime: Runtime = request.app.state.runtime
    return runtime


def root_of(request: Request) -> str:
    """Return the prefix under which a proxy shows the service; empty without one."""
    return runtime_of(request).settings.root_path


def caller_of_token(request: Request) -> Caller | None:
    """Return the user of a request by its token; None if it shows no valid one. Needs no database."""
    return caller_of(request.headers.get("authorization"), runtime_of(request).settings.tokens)


async def caller_of_request(request: Request) -> Caller | None:
    """Return the user of a request, by its token or by the pass of a signed-in browser; None if neither is valid."""
    runtime = runtime_of(request)
    if found := caller_of_token(request):
        return found if runtime.settings.tokens else replace(found, form_key=form_key(runtime.secret, ""))
    found = caller_of_pass(request.cookies.get(PASS_COOKIE), runtime.settings.tokens)
    if found is None or await runtime.read(lambda connection: is_ended(connection, found.pass_id)):
        return None
    return found


_bearer = HTTPBearer(auto_error=False, description="A token of LNCIS_TOKENS; needed if the service has any.")


async def reader(request: Request, _: Annotated[object, Depends(_bearer)]) -> Caller:
    """Return the user of a request; Problem 401 if it shows no valid token."""
    caller = await caller_of_request(request)
    if caller is None:
        raise Problem(401, "show a token: Authorization: Bearer ...", headers={"WWW-Authenticate": "Bearer"})
    return caller


async def writer(caller: Annotated[Caller, Depends(reader)]) -> Caller:
    """Return the user of a request; Problem 403 if the token may only read."""
    if not caller.may_write:
        raise Problem(403, f"the token of {caller.user} may read, not write")
    return caller


At = Annotated[Runtime, Depends(runtime_of)]
Reader = Annotated[Caller, Depends(reader)]
Writer = Annotated[Caller, Depends(writer)]
