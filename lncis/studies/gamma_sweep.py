"""python -m lncis.studies.gamma_sweep [FILE]: the main job."""

import typer

from lncis.studies.command import run_gamma_sweep


def main() -> None:
    """Run studies/gamma_sweep.yaml, or the study in the file that is named."""
    typer.run(run_gamma_sweep)


if __name__ == "__main__":
    main()
