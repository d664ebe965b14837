"""python -m lncis: the command `lncis`."""

from lncis.cli import main

if __name__ == "__main__":
    main()
