"""The command line: `backstay new`, `dev`, `run`, `db ...`, `load`, `explain`.

Data goes to standard output, talk to standard error. A command ends with 0 when it did its work, 1 when it
could not, 2 when it was not understood, 3 when `load` could not measure, 130 when it was interrupted and 141
when nobody read its output.

Commands that need your app run in your project's folder: the nearest one upwards with a `pyproject.toml`, if
it names the app. So `.env`, `migrations` and `sqlite:///service.db` are the same from every subfolder.
"""

from backstay.cli.entry import main

__all__ = ["main"]
