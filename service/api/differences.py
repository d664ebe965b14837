"""How two documents differ, field by field."""

from typing import Any

_ABSENT = object()


def differences(earlier: Any, now: Any, path: str = "") -> list[dict[str, Any]]:
    """Return `{path, earlier, now}` for each field that differs; a field that one of them lacks is null there."""
    if isinstance(earlier, dict) and isinstance(now, dict):
        keys = [*earlier, *(key for key in now if key not in earlier)]
        return [
            line
            for key in keys
            for line in differences(
                earlier.get(key, _ABSENT), now.get(key, _ABSENT), f"{path}.{key}" if path else str(key)
            )
        ]
    if earlier == now:
        return []
    return [{"path": path, "earlier": _plain(earlier), "now": _plain(now)}]


def _plain(value: Any) -> Any:
    return None if value is _ABSENT else value
