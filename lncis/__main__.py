"""python -m lncis: the command `lncis`."""

from lncis.commands.app import main

if __name__ == "__main__":
    main()
