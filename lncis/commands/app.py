"""The command `lncis`."""

import typer

from lncis.commands import (
    beside,
    cluster,
    data,
    extend,
    keeping,
    model,
    noise,
    noise_join,
    replay,
    service,
    study,
    train,
)
from lncis.commands.suspects import apply, export, gallery, listing, plan

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__)
study_app = typer.Typer(
    no_args_is_help=True, help="Hyperparameter studies: many trainings, compared over seeds; here or at a service."
)
app.command()(train.train)
app.command(cls=beside.with_beside(join=noise_join.join), epilog=noise_join.EPILOG)(noise.noise)
app.add_typer(study_app, name="study")
app.add_typer(data.app, name="data")
of_a_list = beside.with_beside(
    gallery=gallery.gallery,
    plan=plan.plan,
    apply=apply.apply,
    export=export.export,
)
app.command("suspects", cls=of_a_list, epilog=listing.EPILOG)(listing.score)
study_app.command("run")(study.run_file)
study_app.command("extend")(extend.extend)
study_app.command("report")(study.report_study)
study_app.command("compare")(study.compare_studies)
study_app.command("replay")(replay.replay)
study_app.command("submit")(service.submit)
study_app.command("list")(service.list_studies)
study_app.command("watch")(service.watch)
study_app.command("best")(service.best)
study_app.command("checkpoint")(service.checkpoint)
study_app.command("logs")(service.logs)
study_app.command("cancel")(service.cancel)
study_app.command("pause")(service.pause)
study_app.command("drain")(service.drain)
study_app.command("budget")(service.set_budget)
study_app.command("stop-trial")(service.stop_trial)
study_app.command("resume")(service.resume)
study_app.command("archive")(keeping.archive)
study_app.command("unarchive")(keeping.unarchive)
study_app.command("label")(keeping.label)
study_app.command("delete")(keeping.delete)
app.command()(model.evaluate)
app.command()(model.predict)
app.command()(model.weights)
cluster_app = typer.Typer(no_args_is_help=True, help="Ray clusters, as cluster.yaml describes them.")
app.add_typer(cluster_app, name="cluster")
cluster_app.command("check")(cluster.check_file)
cluster_app.callback()(lambda: None)  # without it typer would make the one command the whole program


def main() -> None:
    """Run the command line."""
    app(prog_name="lncis")
