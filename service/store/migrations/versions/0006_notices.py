"""When a study's end is to be sent to whom the service notifies; what has ended before is not."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Add the columns: nothing is due."""
    op.add_column("studies", sa.Column("notice_due", sa.Float(), nullable=True))
    op.add_column("studies", sa.Column("notice_attempts", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("studies", sa.Column("waiting_noticed", sa.Float(), nullable=True))
    op.create_index("studies_notice", "studies", ["notice_due"])
