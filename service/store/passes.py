"""Passes of browsers that signed out before their time."""

import time

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from service.store.tables import ended_passes


def end_pass(connection: Connection, pass_id: str, until: float) -> None:
    """Note that a pass is not valid any more; it would have ended by itself at `until`."""
    connection.execute(ended_passes.delete().where(ended_passes.c.until < time.time()))
    if not is_ended(connection, pass_id):
        connection.execute(ended_passes.insert().values(id=pass_id, until=until))


def is_ended(connection: Connection, pass_id: str) -> bool:
    """Return whether the browser with a pass has signed out."""
    query = sa.select(ended_passes.c.id).where(ended_passes.c.id == pass_id)
    return connection.execute(query).first() is not None
