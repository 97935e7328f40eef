"""The test suite leaves the scripts alone: they import one another from their folder."""

collect_ignore_glob = ["*.py"]
