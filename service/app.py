"""create_app: the service as an ASGI application, made from its settings, a database and a place where jobs run."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import Depends, FastAPI

import lncis
from service.api import openapi, problems
from service.api.endpoints import checkpoints, extending, keeping, logs, results, studies, system
from service.api.guard import Guard
from service.api.methods import include
from service.api.metrics import Measured
from service.api.queries import only_known_queries
from service.api.runtime import Runtime
from service.api.submission.plans import Planner
from service.dispatch.dispatcher import Dispatcher
from service.dispatch.jobs import Jobs
from service.dispatch.notices import Notifier
from service.settings import Settings, is_loopback
from service.store.database import Database
from service.ui import actions, comparison, log_page, page, signing, suspects_page

DESCRIPTION = """Queues lncis studies on a shared cluster, and reports their best configurations.

States: queued -> running -> succeeded | failed | cancelled | spent; running <-> paused; spent -> queued.
Errors are RFC 9457 problem documents.
"""


def create_app(settings: Settings, database: Database, jobs: Jobs) -> FastAPI:
    """Return the service; the caller made its database, and closes it."""
    dispatcher = Dispatcher(settings, database, jobs)
    notifier = Notifier(settings, database, lambda: dispatcher.leads)
    runtime = Runtime(
        settings=settings,
        database=database,
        planner=Planner(settings.runs),
        wake=dispatcher.wake,
        heartbeats=dispatcher.heartbeats,
    )

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        dispatcher.start()
        notifier.start()
        yield
        runtime.stopping = True
        notifier.stop()
        dispatcher.stop()
        await runtime.close()

    app = FastAPI(
        title="lncis",
        version=lncis.__version__,
        description=DESCRIPTION,
        lifespan=lifespan,
        dependencies=[Depends(only_known_queries)],
        redirect_slashes=False,
        generate_unique_id_function=openapi.operation_id,
        docs_url=None,  # service.ui.page serves the same page with local assets
        redoc_url=None,
    )
    app.state.runtime = runtime
    local_only = not settings.tokens and is_loopback(settings.host)
    app.add_middleware(
        Guard, root_path=settings.root_path, local_only=local_only, max_body_bytes=settings.max_body_bytes
    )
    app.add_middleware(Measured, metrics=runtime.metrics)
    problems.install(app)
    openapi.install(app, tokens=bool(settings.tokens))
    endpoints, pages = (
        (studies, extending, keeping, results, logs, checkpoints, system),
        (signing, actions, comparison, log_page, suspects_page, page),
    )
    include(app, [part.router for part in (*endpoints, *pages)])
    return app
