"""python -m lncis.studies.gamma_sweep [FILE]: the main job."""

from pathlib import Path

import typer

from lncis.commands.study import run_file


def main() -> None:
    """Run studies/gamma_sweep.yaml, or the study in the file that is named."""
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command(help="At what loss should a foreground sample be isolated? Table 6 of the paper, on digits.")(run_file)
    app(obj=Path("studies/gamma_sweep.yaml"))


if __name__ == "__main__":
    main()
