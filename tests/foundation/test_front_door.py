"""The front door: what `backstay` exports, and that asking for it is all it costs."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import backstay


def test_every_name_leads_somewhere_and_is_listed() -> None:
    for name in backstay.__all__:
        assert getattr(backstay, name) is not None
        assert name in dir(backstay)


def test_the_types_that_checkers_see_are_the_names_that_are_imported() -> None:
    tree = ast.parse(Path(backstay.__file__).read_text())
    seen = {
        (alias.name, node.module)
        for block in tree.body
        if isinstance(block, ast.If)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }

    assert seen == set(backstay._ROOMS.items())


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'creat_app'"):
        _ = backstay.creat_app


def test_importing_it_imports_no_tool() -> None:
    code = "import sys, backstay; print({'fastapi', 'sqlalchemy', 'pydantic'} & sys.modules.keys())"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "set()"
