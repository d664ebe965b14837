"""Who asked for a trial to be stopped."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Add the column: nobody has asked yet."""
    op.add_column("trials", sa.Column("stopped_by", sa.String(length=64), nullable=True))
