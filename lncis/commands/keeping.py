"""lncis study archive, unarchive, label, delete: what becomes of the studies of a service that are over."""

from typing import Annotated

import typer

from lncis.commands.service import Id, Service, client_of, plain, print_state
from lncis.terminal import clear_errors


def archive(study_id: Id, service: Service = None) -> None:
    """Leave a study that is over out of lists; `unarchive` shows it again."""
    with clear_errors(), client_of(service) as client:
        print_state(client.archive(study_id))


def unarchive(study_id: Id, service: Service = None) -> None:
    """Show an archived study in lists again."""
    with clear_errors(), client_of(service) as client:
        print_state(client.unarchive(study_id))


def label(
    study_id: Id,
    labels: Annotated[
        list[str] | None, typer.Argument(help="Its labels; none takes all away.", metavar="LABEL")
    ] = None,
    service: Service = None,
) -> None:
    """Give a study of the service these labels in place of those that it has."""
    with clear_errors(), client_of(service) as client:
        study = client.label(study_id, labels or [])
        print(plain(", ".join(study.labels) or "no labels"))


def delete(
    study_id: Id,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    service: Service = None,
) -> None:
    """Delete a study that is over, with its results, logs and checkpoints, and print what is left of it."""
    with clear_errors(), client_of(service) as client:
        study = client.get(study_id)
        if not yes:
            typer.confirm(
                plain(f"Delete {study.id} ({study.state}) with its results, logs and checkpoints?"), abort=True
            )
        removed = client.delete(study_id)
        print(plain(f"{removed.id}: deleted, {removed.bytes_freed / 1e6:,.0f} MB freed"))
        for left in removed.left:
            print(plain(f"left: {left}"))
