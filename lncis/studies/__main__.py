"""python -m lncis.studies FILE: any study."""

import typer

from lncis.studies.command import run_file


def main() -> None:
    """Run the study in a YAML file."""
    typer.run(run_file)


if __name__ == "__main__":
    main()
