"""Who asks, and what they may: bearer tokens with a scope, compared in constant time; for browsers a pass to read."""

import hashlib
import hmac
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import Field
from pydantic.dataclasses import dataclass as checked

from lncis.config import STRICT_KEYS
from lncis.errors import ConfigError

Scope = Literal["read", "write"]

LOCAL_USER = "local"
"""Whose studies are those of a service without tokens."""


@checked(frozen=True, kw_only=True, config=STRICT_KEYS)
class Token:
    """A secret that a user shows; only its digest is kept."""

    user: str
    scope: Scope
    digest: bytes = Field(repr=False)


@dataclass(frozen=True, kw_only=True)
class Caller:
    """Who asks."""

    user: str
    may_write: bool


_TOKEN = re.compile(r"(?P<user>[A-Za-z0-9._-]{1,64}):(?P<scope>read|write):(?P<secret>[\x21-\x2b\x2d-\x7e]{8,})")


def parse_tokens(text: str) -> list[Token]:
    """Return the tokens in `user:scope:secret,...`; ConfigError tells which one is wrong, never its secret."""
    tokens, problems = [], []
    for number, part in enumerate(text.split(","), start=1):
        found = _TOKEN.fullmatch(part.strip())
        if found is None:
            problems.append(
                f"LNCIS_TOKENS: token {number} must be user:scope:secret with scope read or write and a secret of at "
                "least 8 characters"
            )
        else:
            scope: Scope = "write" if found["scope"] == "write" else "read"
            tokens.append(Token(user=found["user"], scope=scope, digest=_digest(found["secret"])))
    if problems:
        raise ConfigError("environment", problems)
    return tokens


def caller_of(authorization: str | None, tokens: Sequence[Token]) -> Caller | None:
    """Return who shows a token, None for nobody known; every token is compared, whatever the others gave."""
    if not tokens:
        return Caller(user=LOCAL_USER, may_write=True)
    kind, _, secret = (authorization or "").partition(" ")
    shown, found = _digest(secret.strip()), None
    for token in tokens:
        if hmac.compare_digest(token.digest, shown) and kind.lower() == "bearer":
            found = Caller(user=token.user, may_write=token.scope == "write")
    return found


PASS_COOKIE, PASS_SECONDS = "lncis_pass", 12 * 3600
"""What a browser that signed in shows instead of its token, and for how long."""


def new_pass(secret: str, tokens: Sequence[Token]) -> str | None:
    """Return a pass for who shows a token's secret, None for nobody known.

    A browser sends its cookies to every port of a host, so to MLflow beside this service too: a pass is not the token,
    it ends, it ends with the token, and it never writes.
    """
    caller = caller_of(f"Bearer {secret}", tokens)
    if not tokens or caller is None:
        return None
    until = str(int(time.time()) + PASS_SECONDS)
    return f"{until}.{_seal(_digest(secret.strip()), until)}"


def caller_of_pass(shown: str | None, tokens: Sequence[Token]) -> Caller | None:
    """Return who shows a pass that is still good, None for nobody known."""
    read = _PASS.fullmatch(shown or "")
    if read is None or int(read["until"]) <= time.time():
        return None
    found = None
    for token in tokens:
        if hmac.compare_digest(_seal(token.digest, read["until"]), read["seal"]):
            found = Caller(user=token.user, may_write=False)
    return found


_PASS = re.compile(r"(?P<until>[0-9]{1,12})\.(?P<seal>[0-9a-f]{64})")


def _seal(key: bytes, until: str) -> str:
    return hmac.new(key, f"lncis pass until {until}".encode(), hashlib.sha256).hexdigest()


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).digest()
