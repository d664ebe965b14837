"""Authentication: bearer tokens with a scope, compared in constant time; for browsers a signed pass.

A pass reads. It changes studies only by the forms of our pages, which carry a key that no other site knows, and only if
its user asked for that when signing in, with a token that may write.
"""

import hashlib
import hmac
import re
import secrets
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

from itsdangerous import BadSignature, TimestampSigner
from pydantic import Field
from pydantic.dataclasses import dataclass as checked

from lncis.config import STRICT_KEYS
from lncis.errors import ConfigError

Scope = Literal["read", "write"]

LOCAL_USER = "local"
"""The owner of all studies of a service without tokens."""


@checked(frozen=True, kw_only=True, config=STRICT_KEYS)
class Token:
    """A user's secret, of which only the digest is kept."""

    user: str
    scope: Scope
    digest: bytes = Field(repr=False)


@dataclass(frozen=True, kw_only=True)
class Caller:
    """The user of a request."""

    user: str
    may_write: bool
    pass_id: str = ""
    """Of the pass of a browser; empty for a token."""
    form_key: str = ""
    """What the forms of this user's pages carry; empty where they change nothing."""


_TOKEN = re.compile(r"(?P<user>[A-Za-z0-9._-]{1,64}):(?P<scope>read|write):(?P<secret>[\x21-\x2b\x2d-\x7e]{8,})")


def parse_tokens(text: str) -> list[Token]:
    """Return the tokens in `user:scope:secret,...`; ConfigError names the wrong one by its number, never its secret."""
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
    """Return the user of a token, None if it is unknown; every token is compared, so that the time tells nothing."""
    if not tokens:
        return Caller(user=LOCAL_USER, may_write=True)
    kind, _, secret = (authorization or "").partition(" ")
    shown, found = _digest(secret.strip()), None
    for token in tokens:
        if hmac.compare_digest(token.digest, shown) and kind.lower() == "bearer":
            found = Caller(user=token.user, may_write=token.scope == "write")
    return found


PASS_COOKIE, PASS_SECONDS = "lncis_pass", 12 * 3600
"""The cookie of a signed-in browser, and how long it is valid."""


def new_pass(secret: str, tokens: Sequence[Token], *, acts: bool = False) -> str | None:
    """Return a pass for the secret of a token, None if there is no such token.

    With `acts` the forms of its pages change studies, if the token may write. A browser sends its cookies to every port
    of a host, so to an MLflow beside this service too. Therefore a pass is not the token: it expires, it ends with its
    token, and by the API it never writes.
    """
    caller = caller_of(f"Bearer {secret}", tokens) if tokens else None
    if caller is None:
        return None
    signer = _signer(_digest(secret.strip()), acts=acts and caller.may_write)
    return signer.sign(secrets.token_hex(16)).decode()


def caller_of_pass(shown: str | None, tokens: Sequence[Token]) -> Caller | None:
    """Return the user of a valid pass, None if it is unknown or expired; whether it was ended the database knows."""
    found = None
    for token in tokens:
        for acts in (False, True):
            with suppress(BadSignature):
                signer = _signer(token.digest, acts=acts)
                pass_id = signer.unsign((shown or "").encode("utf-8", "replace"), max_age=PASS_SECONDS).decode()
                key = form_key(token.digest, pass_id) if acts and token.scope == "write" else ""
                found = Caller(user=token.user, may_write=False, pass_id=pass_id, form_key=key)
    return found


def form_key(secret: bytes, pass_id: str) -> str:
    """Return what the forms of a pass carry; who has the pass alone cannot make it."""
    return hmac.new(secret, f"lncis form {pass_id}".encode(), hashlib.sha256).hexdigest()


def _signer(key: bytes, *, acts: bool) -> TimestampSigner:
    salt = "lncis pass that acts" if acts else "lncis pass with id"
    return TimestampSigner(key, salt=salt, digest_method=hashlib.sha256)


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).digest()
