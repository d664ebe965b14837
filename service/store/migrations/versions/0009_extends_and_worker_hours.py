"""Which study a study extends, and the worker-hours of each owner by day; what was used before counts for nothing."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    """Add the column, null where a study extends none, and the table."""
    op.add_column("studies", sa.Column("extends", sa.String(128), nullable=True))
    op.create_index("studies_extends", "studies", ["extends"])
    op.create_table(
        "worker_hours",
        sa.Column("owner", sa.String(64), primary_key=True),
        sa.Column("day", sa.Integer(), primary_key=True),
        sa.Column("hours", sa.Float(), nullable=False),
    )
