"""Which fold each trial left out; trials of before left out none."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Add the column: null where a study has no folds."""
    op.add_column("trials", sa.Column("fold", sa.Integer(), nullable=True))
