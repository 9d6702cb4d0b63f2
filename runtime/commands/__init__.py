"""One module per command, with `EXAMPLE`, `arguments(parser)` and `run(args) -> exit code`."""
