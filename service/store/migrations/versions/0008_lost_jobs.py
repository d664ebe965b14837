"""How many jobs of a study in a row Ray lost before they finished an epoch."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    """Add the column: none was lost yet."""
    op.add_column("studies", sa.Column("lost_jobs", sa.Integer(), nullable=False, server_default="0"))
