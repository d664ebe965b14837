"""How often somebody may guess: wrong sign-ins are counted by address."""

import ipaddress
import time
from collections import OrderedDict

MAX_WRONG, WINDOW_SECONDS = 10, 60.0
"""Wrong sign-ins from one address within so many seconds; then it waits for the rest of them."""
MAX_ADDRESSES = 10_000


class Attempts:
    """Counts by address; the addresses that were quiet for longest are forgotten first."""

    def __init__(self) -> None:
        self._wrong: OrderedDict[str, list[float]] = OrderedDict()

    def wait_seconds(self, address: str) -> float:
        """Return how long an address must wait; 0: it may try."""
        since = time.monotonic() - WINDOW_SECONDS
        recent = [at for at in self._wrong.get(_network(address), ()) if at > since]
        return recent[-MAX_WRONG] - since if len(recent) >= MAX_WRONG else 0.0

    def note_wrong(self, address: str) -> None:
        """Count a wrong sign-in."""
        name = _network(address)
        self._wrong[name] = [*self._wrong.get(name, ()), time.monotonic()][-MAX_WRONG:]
        self._wrong.move_to_end(name)
        while len(self._wrong) > MAX_ADDRESSES:
            self._wrong.popitem(last=False)


def _network(address: str) -> str:
    """Return what one user may hold: an IPv4 address, or 64 bits of an IPv6 address."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return address
    return address if found.version == 4 else str(ipaddress.ip_network((found, 64), strict=False))
