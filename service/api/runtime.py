"""What the endpoints of one app work with, and who is asking."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Annotated, TypeVar

from fastapi import Depends, Request
from fastapi.security import HTTPBearer
from sqlalchemy.engine import Connection

from service.api.metrics import Metrics
from service.api.plans import Planner
from service.api.problems import Problem
from service.auth import PASS_COOKIE, Caller, caller_of, caller_of_pass
from service.mlflow import Mlflow
from service.settings import Settings
from service.store.database import Database

Answer = TypeVar("Answer")

READERS = 4
"""Threads that read; they take turns anyway, and more would only wait for each other."""


@dataclass(kw_only=True)
class Runtime:
    """What one app was made of."""

    settings: Settings
    database: Database
    planner: Planner
    mlflow: Mlflow
    wake: Callable[[], None]
    """Tells the dispatcher that there is something to do."""
    metrics: Metrics = field(default_factory=Metrics)
    streams: int = 0
    """Event streams that are open."""
    stopping: bool = False
    readers: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(READERS, "database-reader"))

    async def read(self, work: Callable[[Connection], Answer]) -> Answer:
        """Return what a function reads from the database."""
        return await asyncio.get_running_loop().run_in_executor(self.readers, self.database.read, work)

    async def write(self, work: Callable[[Connection], Answer]) -> Answer:
        """Return what a function returns, once what it wrote is on the disk."""
        return await asyncio.wrap_future(self.database.submit(work))


def of(request: Request) -> Runtime:
    """Return what the app of a request works with."""
    runtime: Runtime = request.app.state.runtime
    return runtime


def known(request: Request) -> Caller | None:
    """Return who asks, by a token or by the pass of a browser that signed in; None for nobody known."""
    tokens = of(request).settings.tokens
    shown = request.headers.get("authorization"), request.cookies.get(PASS_COOKIE)
    return caller_of(shown[0], tokens) or caller_of_pass(shown[1], tokens)


_bearer = HTTPBearer(auto_error=False, description="A token of LNCIS_TOKENS; needed where the service has any.")


async def reader(request: Request, _: Annotated[object, Depends(_bearer)]) -> Caller:
    """Return who asks; Problem 401 where it is nobody known."""
    caller = known(request)
    if caller is None:
        raise Problem(401, "show a token: Authorization: Bearer ...", headers={"WWW-Authenticate": "Bearer"})
    return caller


async def writer(caller: Annotated[Caller, Depends(reader)]) -> Caller:
    """Return who asks; Problem 403 where the token may only read."""
    if not caller.may_write:
        raise Problem(403, f"the token of {caller.user} may read, not write")
    return caller


At = Annotated[Runtime, Depends(of)]
Reader = Annotated[Caller, Depends(reader)]
Writer = Annotated[Caller, Depends(writer)]
