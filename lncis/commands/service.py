"""lncis study submit, list, watch, best, checkpoint, logs, cancel, pause, resume: the service from a terminal."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from lncis.commands.study import changes_of
from lncis.errors import ConfigError, StudyError
from lncis.studies.spec import files as spec_files
from lncis.terminal import clear_errors, console_of_plain_text

if TYPE_CHECKING:
    from lncis.api import Event, ExtensionPlan, Study
    from lncis.client import Client

Id = Annotated[str, typer.Argument(help="Id of the study.", metavar="STUDY_ID")]
Service = Annotated[
    str | None,
    typer.Option(
        "--service",
        help="Address of the service; default: $LNCIS_SERVICE_URL, else http://127.0.0.1:8000.",
        show_default=False,
    ),
]

PAST_EVENTS = 3
"""Earlier events that `watch` prints."""


def submit(
    file: Annotated[Path | None, typer.Argument(help="The study: a YAML file.", show_default=False)] = None,
    preset: Annotated[
        str | None, typer.Option(help="Submit a shipped study of the service instead.", metavar="NAME")
    ] = None,
    extends: Annotated[
        str | None, typer.Option(help="Extend a finished study of the service instead.", metavar="STUDY_ID")
    ] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", help="Change a field of the study; may be repeated.", metavar="PATH=VALUE"),
    ] = None,
    priority: Annotated[int, typer.Option(min=-1000, max=1000, help="Studies with a higher priority run first.")] = 0,
    watched: Annotated[bool, typer.Option("--watch", help="Follow the study until it is over.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="With --extends: print what differs and what is to train, and stop.")
    ] = False,
    service: Service = None,
) -> None:
    """Queue a study at the service, and print its id."""
    with clear_errors():
        given = changes_of(changes or [])
        study = _study(file, preset, extends, given)
        if dry_run and extends is None:
            raise ConfigError("--dry-run", ["needs --extends; `lncis study run FILE --dry-run` plans a file"])
        with client_of(service) as client:
            if extends is not None and dry_run:
                _print_extension(client.plan_extension(extends, given))
                return
            made = (
                client.submit(study, priority=priority)
                if study is not None
                else client.extend(str(extends), given, priority=priority)
            )
            print(made.id, flush=True)
            if watched:
                _follow(client, made.id)
            else:
                print(f"follow it: lncis study watch {made.id}  or  {client.url}/ui/studies/{made.id}", file=sys.stderr)


def list_studies(
    state: Annotated[str | None, typer.Option(help="Only studies in this state.")] = None,
    owner: Annotated[str | None, typer.Option(help="Only studies of this user.")] = None,
    text: Annotated[str, typer.Option(help="Only studies with this in the name, id, owner or a label.")] = "",
    label: Annotated[str | None, typer.Option(help="Only studies with this label.")] = None,
    archived: Annotated[
        bool, typer.Option("--archived", help="Those that are archived, in place of the others.")
    ] = False,
    limit: Annotated[int, typer.Option(min=1, help="Number of studies, newest first.")] = 20,
    service: Service = None,
) -> None:
    """Print the newest studies of the service: state, progress, best so far, and why each one is not running."""
    from itertools import islice

    with clear_errors(), client_of(service) as client:
        asked = client.list(state=state, owner=owner, text=text, label=label, archived=archived)  # type: ignore[arg-type]
        found = list(islice(asked, limit))
        why = {w.id: w.why for w in client.queue()} if any(not study.over for study in found) else {}
        table = Table(box=None, pad_edge=False)
        for heading in ("study", "state", "trials", "done", "best so far", "reason"):
            table.add_column(heading, justify="right" if heading in ("trials", "done") else "left", overflow="fold")
        for study in found:
            progress, best = study.progress, study.best
            over = progress.trials_finished + progress.trials_pruned + progress.trials_failed
            table.add_row(
                study.id,
                study.state,
                f"{over}/{progress.trials_total}",
                f"{100 * progress.fraction:.0f} %",
                _shown(f"{best.objective}  {best.label}" if best else "-"),
                _shown(why.get(study.id, study.reason)),
            )
        none = "no such study" if state or owner or text or label or archived else "no study yet"
        console_of_plain_text(width=160).print(table if found else none)


def watch(study_id: Id, service: Service = None) -> None:
    """Follow a study of the service until it is over."""
    with clear_errors(), client_of(service) as client:
        _follow(client, study_id)


def best(
    study_id: Id,
    top: Annotated[
        int, typer.Option(min=1, max=100, help="Number of finished configurations, and of unfinished ones.")
    ] = 3,
    as_yaml: Annotated[bool, typer.Option("--yaml", help="Print the best one as a file for lncis train.")] = False,
    service: Service = None,
) -> None:
    """Print the best configurations of a study of the service so far."""
    with clear_errors(), client_of(service) as client:
        if as_yaml:
            sys.stdout.write(client.best_yaml(study_id))
            return
        found = client.best(study_id, top=top)
        if not found:
            raise StudyError(f"study {study_id} is {client.get(study_id).state} and has evaluated no configuration yet")
        metric = _metric(client.get(study_id))
        table = Table(box=None, pad_edge=False)
        for heading in ("#", "configuration", metric, "test/segm_AP", "seeds", "epoch", ""):
            table.add_column(heading, justify="left" if heading in ("configuration", "") else "right", overflow="fold")
        for one in found:
            clean = one.metrics.get("test/segm_AP")
            table.add_row(
                str(one.rank),
                _shown(one.label),
                str(one.objective),
                str(clean or "-"),
                f"{one.seeds_finished}/{one.seeds_total}",
                f"{one.epoch}/{one.epochs}",
                one.status,
            )
        console_of_plain_text(width=160).print(table)


def checkpoint(
    study_id: Id,
    out: Annotated[Path, typer.Option(help="The file to write.", show_default=False)],
    trial: Annotated[str | None, typer.Option(help="That of this trial.", metavar="NAME")] = None,
    rank: Annotated[int, typer.Option(min=1, help="That of the configuration with this rank.")] = 1,
    service: Service = None,
) -> None:
    """Download the checkpoint of the best configuration, or of a trial; a broken download goes on."""
    with clear_errors(), client_of(service) as client:
        if not out.absolute().parent.is_dir():
            raise ConfigError("--out", [f"must lie in a folder that exists but got {out}"])
        print(client.checkpoint(study_id, out, trial=trial, rank=rank))


def logs(
    study_id: Id,
    trial: Annotated[str | None, typer.Option(help="The log of this trial instead of the driver's.")] = None,
    follow: Annotated[bool, typer.Option("--follow", help="Go on until the study is over.")] = False,
    service: Service = None,
) -> None:
    """Print the log of a study of the service, or of one of its trials."""
    with clear_errors(), client_of(service) as client, _left_running(study_id) if follow else nullcontext():
        for text in client.follow_log(study_id, trial) if follow else client.log(study_id, trial):
            sys.stdout.write("".join(c if c.isprintable() or c in "\n\t" else "?" for c in text))
            sys.stdout.flush()


def cancel(study_id: Id, service: Service = None) -> None:
    """End a study of the service for good; its results stay."""
    with clear_errors(), client_of(service) as client:
        print_state(client.cancel(study_id))


def pause(study_id: Id, service: Service = None) -> None:
    """Stop a running study of the service; its finished epochs stay."""
    with clear_errors(), client_of(service) as client:
        print_state(client.pause(study_id))


def drain(study_id: Id, service: Service = None) -> None:
    """Pause a running study of the service once the trials that run have ended; no other begins."""
    with clear_errors(), client_of(service) as client:
        print_state(client.drain(study_id))


def stop_trial(study_id: Id, trial: Annotated[str, typer.Argument(help="Its name.")], service: Service = None) -> None:
    """End one trial of a running study; it counts as failed."""
    with clear_errors(), client_of(service) as client:
        print(plain(f"{client.stop_trial(study_id, trial).name}: ends after its epoch"))


def resume(study_id: Id, service: Service = None) -> None:
    """Put a paused study of the service back into the queue."""
    with clear_errors(), client_of(service) as client:
        print_state(client.resume(study_id))


def set_budget(
    study_id: Id,
    limits: Annotated[
        list[str],
        typer.Argument(help="epochs, worker_hours, hours, money; null: none.", metavar="LIMIT=NUMBER..."),
    ],
    service: Service = None,
) -> None:
    """Give a study of the service another budget; one whose budget is spent goes on with a larger one."""
    with clear_errors(), client_of(service) as client:
        print_state(client.set_budget(study_id, changes_of(limits, source="budget", example="epochs=120")))


def client_of(service: str | None) -> "Client":
    """Return the client of a service, by its address or by the environment."""
    from lncis.client import Client  # imports an HTTP library that other commands do not need

    return Client(service)


def _study(
    file: Path | None, preset: str | None, extends: str | None, changes: dict[str, Any]
) -> dict[str, Any] | None:
    """Return the request body, None for an extension; a mistake in a file is an error before anything is sent."""
    if [file, preset, extends].count(None) != 2:
        raise ConfigError("lncis study submit", ["needs one of a YAML file, --preset NAME and --extends STUDY_ID"])
    if file is not None:
        return spec_files.portable_spec_document(file, changes)
    return None if preset is None else {"preset": preset, "set": changes}


def _print_extension(plan: "ExtensionPlan") -> None:
    lines = [f"extends {plan.parent}:"]
    lines += [f"  {field.path}: was {field.earlier!r}, now {field.now!r}" for field in plan.differences]
    lines.append(f"{plan.epochs_taken_over} epochs are taken over from it, {plan.epochs_to_train} are to train")
    for line in [*lines, *(f"  {note}" for note in plan.notes)]:
        print(plain(line))


def _follow(client: "Client", study_id: str) -> None:
    """Print the events of a study until it is over; StudyError if it did not succeed."""
    study = client.get(study_id)
    console, labels, metric = console_of_plain_text(width=160), dict[str, str](), _metric(study)
    console.print(f"{study.id}: {study.state}", soft_wrap=True)
    done = study.progress.epochs_done
    after = max(0, study.last_event - PAST_EVENTS)
    with _left_running(study_id), _bar(console) as bar:
        task = bar.add_task(study.name, total=study.progress.epochs_total, completed=done)
        for event in client.watch(study_id, after=after):
            if line := _line(event, labels, metric):
                bar.console.print(_shown(line), soft_wrap=True)
            if event.type == "epoch_finished" and event.number > study.last_event:
                done += 1
                bar.update(task, completed=done)
    study = client.get(study_id)
    if study.state != "succeeded":
        raise StudyError(plain(f"study {study_id} {study.state}" + (f": {study.reason}" if study.reason else "")))
    summary = (
        f"best: {study.best.label}, {study.best.metric} {study.best.objective}"
        if study.best
        else "no configuration finished"
    )
    console.print(_shown(f"{study_id}: succeeded; {summary}"), soft_wrap=True)
    console.print(f"best config: lncis study best {study_id} --yaml", soft_wrap=True)


@contextmanager
def _left_running(study_id: str) -> Iterator[None]:
    """Within the block Ctrl-C prints that the study keeps running."""
    try:
        yield
    except KeyboardInterrupt:
        print(f"{study_id} keeps running; watch it again: lncis study watch {study_id}", flush=True)
        raise


def _bar(console: Console) -> Progress:
    """Return a progress bar of epochs, which only a terminal shows."""
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


def _line(event: "Event", labels: dict[str, str], metric: str) -> str:
    """Return an event as a line of text."""
    data = event.data
    name = str(data.get("trial", ""))
    if event.type == "trial_started":
        labels[name] = str(data["label"])
    who = f"{labels[name]} ({name})" if name in labels else name
    match event.type:
        case "state":
            return f"{data['state']}" + (f": {data['reason']}" if data["reason"] else "")
        case "trial_started":
            return f"{who}: started, {data['epochs']} epochs"
        case "epoch_finished":
            reached = data["metrics"].get(metric)
            return f"{who}: epoch {data['epoch']}" + ("" if reached is None else f", {metric} {reached:.1f}")
        case "trial_ended":
            return f"{who}: {data['end']}" + (f", {data['reason']}" if data["reason"] else "")
        case "trial_retried":
            return f"{who}: retried"
    return ""


def _metric(study: "Study") -> str:
    return str(study.spec.get("objective", {}).get("metric", "val/segm_AP"))


def print_state(study: "Study") -> None:
    """Print the state of a study, and why it is in it."""
    console_of_plain_text(width=160).print(
        _shown(f"{study.id}: {study.state}" + (f", {study.reason}" if study.reason else "")), soft_wrap=True
    )


def plain(text: str) -> str:
    """Return text of other users without the control characters that a terminal would obey."""
    return "".join(character if character.isprintable() else "?" for character in text)


def _shown(text: str) -> Text:
    return Text(plain(text))
