"""What the README and the guides point at is there."""

import re
from pathlib import Path

import pytest

import backstay

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/**/*.md"))]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_into_the_repository_leads_somewhere(document: Path) -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)", document.read_text())

    assert [link for link in links if not (document.parent / link).exists()] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_file_named_in_backticks_exists(document: Path) -> None:
    named = re.findall(r"`((?:tests|benchmarks|docs)/[\w/.\-]+)`", document.read_text())

    assert [path for path in named if not (ROOT / path).exists()] == []


def test_what_the_guides_import_from_backstay_is_exported() -> None:
    text = "\n".join(path.read_text() for path in DOCUMENTS)
    imported = {
        name.strip()
        for line in re.findall(r"from backstay import ([\w, ]+)", text)
        for name in line.split(",")
    }

    assert imported <= set(backstay.__all__)
