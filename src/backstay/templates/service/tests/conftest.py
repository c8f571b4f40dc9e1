"""Each test has a database of its own; `pytest --database postgresql` runs all on PostgreSQL."""

pytest_plugins = ["backstay.testing"]
