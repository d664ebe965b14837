"""Times as the service writes them."""

from datetime import UTC, datetime

from lncis import api


def iso(seconds: float) -> str:
    """Return a time since 1970 as ISO 8601 in UTC."""
    return api.iso(datetime.fromtimestamp(seconds, UTC))
