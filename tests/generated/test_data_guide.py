"""The guide to data migrations, followed to the letter in a new service."""

import re
import shlex
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from os import environ
from pathlib import Path

import pytest

from backstay.cli.new import create_service

_GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "data-migrations.md"
_BLOCK = re.compile(r"^```(sh|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_OTHERS = "    # ... the other columns, as they are"
_USERS = """
INSERT INTO users (
    user_id, email, name, password_hash, is_admin, is_active, is_verified, created_at, updated_at
)
WITH RECURSIVE f(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM f WHERE x < 1500)
SELECT printf('%032x', x), x || '@example.com', 'name ' || x, 'none', 0, 1, 0, '2026-01-01 00:00:00',
       '2026-01-01 00:00:00'
FROM f
"""


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    return create_service(tmp_path / "shop")


def _run(shop: Path, command: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in environ.items() if not name.startswith(("SHOP_", "PYTEST_"))}
    own = {"PYTHONPATH": "src", "PATH": f"{Path(sys.executable).parent}:{kept['PATH']}"}
    words = shlex.split(command, comments=True)
    return subprocess.run(
        words, cwd=shop, env=kept | own, capture_output=True, text=True, timeout=120, check=False
    )


def _commands(block: str) -> Iterator[str]:
    return (line for line in block.splitlines() if line.strip())


def _edit(shop: Path, block: str) -> None:
    """Do what a block of Python asks for: its first line names the file."""
    [path] = shop.glob(re.sub(r"\.\.\.", "*", block.split()[1].rstrip(",")))
    text, code = path.read_text(), block.partition("\n")[2]
    if code.startswith("requires_data"):
        path.write_text(text.replace("\n\n\ndef upgrade", f"\n{code}\n\ndef upgrade", 1))
        return
    start = code.split("(")[0]
    begun = text[: text.index(start)].replace("mapped_column\n", "mapped_column, validates\n")
    others = [
        line for line in text.splitlines() if re.match(r"    (?!name|full_name|old_name)\w+: Mapped", line)
    ]
    path.write_text(begun + code.replace(_OTHERS, "\n".join(others)))


def test_every_command_of_the_guide_runs_and_every_row_is_renamed(shop: Path) -> None:
    blocks = _BLOCK.findall(_GUIDE.read_text())
    commands = [command for kind, block in blocks if kind == "sh" for command in _commands(block)]
    _run(shop, "backstay db upgrade")
    with sqlite3.connect(shop / "service.db") as connection:
        connection.execute(_USERS)
    connection.close()

    told = ""
    for kind, block in blocks:
        if kind == "python":
            _edit(shop, block)
            continue
        for command in _commands(block):
            outcome = _run(shop, command)
            told += outcome.stdout + outcome.stderr
            assert outcome.returncode == 0, f"{command}\n{outcome.stdout}\n{outcome.stderr}"

    with sqlite3.connect(shop / "service.db") as connection:
        columns = [row[1] for row in connection.execute("PRAGMA table_info(users)")]
        wrong = connection.execute(
            "SELECT count(*) FROM users WHERE full_name <> 'name ' || substr(email, 1, instr(email, '@') - 1)"
        ).fetchone()
    connection.close()
    assert len(commands) == 8
    assert ("name" in columns, "full_name" in columns, wrong) == (False, True, (0,))
    assert "fill_full_name: 1,500 rows in 8 batches; the next one changed 200 of 200 rows" in told
    assert "fill_full_name: done; 1,500 of 1,500 rows were changed, in 8 batches." in told
