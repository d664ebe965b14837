"""The ids of a study's run in MLflow in place of a link, which ends when MLflow moves."""

import re
from urllib.parse import unquote

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

_LINK = re.compile(r".*#/experiments/([^/?]+)/runs/([^/?]+)")


def upgrade() -> None:
    """Take the ids out of the links."""
    op.add_column("studies", sa.Column("mlflow_run", sa.JSON(none_as_null=True), nullable=True))
    studies = sa.table(
        "studies",
        sa.column("number", sa.BigInteger()),
        sa.column("mlflow_url", sa.Text()),
        sa.column("mlflow_run", sa.JSON(none_as_null=True)),
    )
    connection = op.get_bind()
    linked = sa.select(studies.c.number, studies.c.mlflow_url).where(studies.c.mlflow_url.is_not(None))
    for number, link in connection.execute(linked).all():
        if found := _LINK.match(link):
            run = {"experiment_id": unquote(found[1]), "run_id": unquote(found[2])}
            connection.execute(studies.update().where(studies.c.number == number).values(mlflow_run=run))
    op.execute("ALTER TABLE studies DROP COLUMN mlflow_url")  # a copy of the table, as for old SQLites, counts anew
