"""The generated service does what its OpenAPI document says, and refuses what it does not say."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

CONFIGURATION = Path(__file__).with_name("schemathesis.toml")
DEADLINE_SECONDS = 900


@pytest.mark.proof
@pytest.mark.databases("sqlite")
def test_every_check_of_schemathesis_passes(shop_url: str, tmp_path: Path) -> None:
    examples = "200" if os.environ.get("BACKSTAY_PROVE") == "1" else "3"
    command = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(CONFIGURATION), "run"]
    options = ["--checks", "all", "--max-examples", examples, "--seed", "1", "--no-color"]

    outcome = subprocess.run(
        [*command, f"{shop_url}/openapi.json", *options, "--generation-database", "none"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(CONFIGURATION.parent)},
        capture_output=True,
        text=True,
        timeout=DEADLINE_SECONDS,
        check=False,
    )

    assert outcome.returncode == 0, outcome.stdout + outcome.stderr
    assert "20 selected / 20 total" in outcome.stdout
