"""Metrics for Prometheus: requests as they are answered, studies at the moment of the scrape."""

import time
from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lncis.api import State

BUCKETS = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0)


class Metrics:
    """The metrics of one app."""

    def __init__(self) -> None:
        registry = CollectorRegistry()
        self._registry = registry
        labels = ("method", "route")
        self.seconds = Histogram(
            "lncis_http_request_seconds", "Time to the first byte", labels, buckets=BUCKETS, registry=registry
        )
        self.requests = Counter("lncis_http_requests", "Answers", (*labels, "status"), registry=registry)
        self.studies = Gauge("lncis_studies", "Studies by state", ("state",), registry=registry)
        self.ray_up = Gauge("lncis_ray_up", "Whether Ray answered last", registry=registry)
        self.dispatcher_seen = Gauge(
            "lncis_dispatcher_seen_timestamp_seconds", "When the dispatcher was last alive", registry=registry
        )
        self.streams = Gauge("lncis_event_streams", "Open event streams", registry=registry)

    def text(self, counts: Mapping[State, int], *, ray_ok: bool, seen_at: float) -> bytes:
        """Return all metrics in Prometheus' text format."""
        for state, number in counts.items():
            self.studies.labels(state).set(number)
        self.ray_up.set(ray_ok)
        self.dispatcher_seen.set(seen_at)
        return generate_latest(self._registry)


class Measured:
    """ASGI middleware that counts answers by route; all paths without a route share one label.

    Starlette's BaseHTTPMiddleware would be shorter, but it puts every streamed event through a queue of its own.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the app answer, and count the answer."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()

        async def count(message: Message) -> None:
            if message["type"] == "http.response.start":
                route = getattr(scope.get("route"), "path", "none")
                method = scope["method"] if scope["method"] in _METHODS else "other"
                self._metrics.seconds.labels(method, route).observe(time.perf_counter() - started)
                self._metrics.requests.labels(method, route, str(message["status"])).inc()
            await send(message)

        await self._app(scope, receive, count)


_METHODS = frozenset({"GET", "HEAD", "POST", "PATCH", "PUT", "DELETE", "OPTIONS"})
