"""Print a fingerprint of the dependencies in pyproject.toml; requirements.lock carries that of its own."""
# ruff: noqa: INP001, T201 - a script, no module

import hashlib
import json
import tomllib
from pathlib import Path


def fingerprint(pyproject: Path) -> str:
    """Return twelve hexadecimal digits that change with any dependency, and with nothing else."""
    content = tomllib.loads(pyproject.read_text(encoding="utf-8"))
    project = content["project"]
    named = [
        project["requires-python"],
        project["dependencies"],
        project["optional-dependencies"],
        content["dependency-groups"],
    ]
    return hashlib.sha256(json.dumps(named, sort_keys=True).encode()).hexdigest()[:12]


if __name__ == "__main__":
    print(fingerprint(Path(__file__).parent.parent / "pyproject.toml"))
