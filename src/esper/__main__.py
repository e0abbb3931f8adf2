"""python -m esper: the same as the command `esper`."""

from esper.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main())
