"""What `backstay.load` exports, and that nothing is made cooperative where nobody asked for users."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from backstay import load


def test_the_types_that_checkers_see_are_the_names_that_are_imported() -> None:
    tree = ast.parse(Path(load.__file__).read_text())
    seen = {
        alias.name: node.module
        for block in tree.body
        if isinstance(block, ast.If)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }

    assert seen == load._MODULES
    assert load.__all__ == sorted(seen)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'ServiceUsr'"):
        _ = load.ServiceUsr


@pytest.mark.parametrize(
    "code",
    [
        "import backstay.load.messages, backstay.load.thresholds, backstay.load.server_metrics",
        "from backstay.load import Threshold",
        "import backstay.cli.load, backstay.cli.load_table",
    ],
)
def test_only_users_bring_locust(code: str) -> None:
    code += "; import sys; print({'locust', 'gevent', 'geventhttpclient'} & sys.modules.keys())"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert shown.stdout.strip() == "set()"


def test_a_user_brings_locust() -> None:
    code = "from backstay.load import ServiceUser; import sys; print('gevent' in sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert shown.stdout.strip() == "True"
