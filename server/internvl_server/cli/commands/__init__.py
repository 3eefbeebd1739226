"""One module for each command, with `HELP`, `add_options` and `run` (see `cli.main.Command`)."""
