"""Studies that lists leave out, and words by which people find them again."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Add both columns: nothing is archived yet, and nothing has a label."""
    op.add_column("studies", sa.Column("archived", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.add_column("studies", sa.Column("labels", sa.Text(), nullable=False, server_default=""))
