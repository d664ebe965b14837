"""The table of a study's trials as a page shows it: sorted, filtered, page by page."""

from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from lncis import api
from lncis.studies.spec import StudySpec
from lncis.studies.spec.space import Categorical, Parameter
from service.store import tables
from service.store.findings import trials_of
from service.store.tables import Study

SORTS = ("number", "label", "seed", "state", "epoch", "objective", "test", "started_at")
"""Columns by which a table can be sorted; `test` is the clean test AP, and a searched parameter sorts by its path."""
TEST = "test/segm_AP"


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a reader wants to see of a table."""

    sort: str = "number"
    descending: bool = False
    state: str | None = None
    text: str = ""
    """Part of the label, the name or the reason; in any case."""

    @property
    def is_plain(self) -> bool:
        """Whether it is the whole table in the order of its trials."""
        return self == WHOLE_TABLE


WHOLE_TABLE = Asked()


@dataclass(frozen=True, kw_only=True)
class Table:
    """A page of a table."""

    rows: list[tuple[int, api.Trial]]
    """Trials with their numbers."""
    total: int
    """How many trials the filter leaves, on all pages."""


def read_table(connection: Connection, study: Study, spec: StudySpec, asked: Asked, *, skip: int, limit: int) -> Table:
    """Return up to `limit` trials after the first `skip`; those without the value that is sorted by come last."""
    columns = tables.trials.c
    query = trials_of(study)
    state = query.selected_columns.state
    if asked.state is not None:
        query = query.where(state == asked.state)
    if asked.text:
        texts = (columns.label, columns.name, columns.reason)
        query = query.where(sa.or_(*(column.icontains(asked.text, autoescape=True) for column in texts)))
    by = state if asked.sort == "state" else _sorted_by(asked.sort, spec)
    order = (by.desc() if asked.descending else by.asc()).nulls_last()
    rows = connection.execute(query.order_by(order, columns.number).offset(skip).limit(limit)).all()
    total = connection.execute(sa.select(sa.func.count()).select_from(query.subquery())).scalar_one()
    return Table(rows=[(row.number, api.Trial.model_validate(row)) for row in rows], total=total)


def _sorted_by(name: str, spec: StudySpec) -> sa.ColumnElement[Any]:
    columns = tables.trials.c
    if name == "test":
        return sa.cast(columns.metrics[TEST].as_float(), sa.Float)
    if name in spec.search:
        value = columns.overrides[name]
        number = _is_number(spec.search[name])
        return sa.cast(value.as_float(), sa.Float) if number else sa.cast(value.as_string(), sa.Text)
    return columns[name if name in SORTS else "number"]


def _is_number(parameter: Parameter) -> bool:
    choices = parameter.choices if isinstance(parameter, Categorical) else []
    return all(isinstance(choice, int | float) and not isinstance(choice, bool) for choice in choices)
