"""`python -m grape`: the same entry point as the `grape` command."""

from grape.runtime.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
