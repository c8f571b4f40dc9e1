"""The guide to authentication does what it says: its code is a service, and its test passes."""

import re
from pathlib import Path

import pytest

from backstay.app._login_limits import LoginLimits
from backstay.settings import SecuritySettings

GUIDE = (Path(__file__).parents[3] / "docs" / "guides" / "authentication.md").read_text("utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```$", GUIDE, re.MULTILINE | re.DOTALL)
QUICK = """
from backstay.settings import SecuritySettings
import backstay
class Settings(backstay.Settings):
    security: SecuritySettings = SecuritySettings(argon2_memory_kib=64, argon2_time_cost=1)
sent = []
async def send_mail(address, link):
    sent.append((address, link))
"""
# What the guide shows step by step, as the module that it would be: the app comes last.
MORE_TESTS = """
import asyncio

from shop import sent


async def test_a_new_user_gets_a_link_that_works(client):
    sent.clear()
    body = {"email": "Ada@example.org", "password": "a lighthouse at noon"}
    assert (await client.post("/users", json=body | {"password": "short"})).json()["code"] == "weak_password"
    assert (await client.post("/users", json=body)).status_code == 201
    async with asyncio.timeout(10):
        while not sent:
            await asyncio.sleep(0.01)  # it goes out in the background
    ((address, link),) = sent
    assert address == "ada@example.org"
    token = link.partition("https://shop.example/verify#")[2]
    assert (await client.post("/account/verification", json={"token": token})).status_code == 204


async def test_its_keys_and_scopes_hold(client):
    body = {"email": "ada@example.org", "password": "a lighthouse at noon"}
    subject = (await client.post("/users", json=body)).json()
    form = {"grant_type": "password", "username": "ada@example.org", "password": body["password"]}
    tokens = (await client.post("/oauth/token", data=form)).json()
    assert (tokens["expires_in"], tokens["scope"]) == (900, "orders")
    own = {"Authorization": f"Bearer {tokens['access_token']}"}
    key = (await client.post("/keys", headers=own)).json()
    as_program = {"Authorization": f"Bearer {key}"}
    assert (await client.get("/orders/7", headers=as_program)).status_code == 404
    assert (await client.get("/orders/7")).status_code == 401
    assert (await client.delete(f"/users/{subject}/logins", headers=own)).status_code == 403
"""


def _module() -> str:
    *code, _ = BLOCKS
    apps = [block for block in code if "create_app(" in block]
    assert len(apps) == 1
    imports, app = apps[0].split("\n\n")
    rest = "\n".join(block for block in code if block not in apps)
    app = app.replace("accounts=ShopAccounts()", "accounts=ShopAccounts(), api_keys=True")
    return f"{imports}\n{QUICK}\n{rest}\nShopAccounts.deliver = deliver\n{app}"


def test_its_service_passes_its_test(pytester: pytest.Pytester) -> None:
    pytester.makeconftest('pytest_plugins = ["backstay.testing"]')
    settings = '[tool.backstay]\napp = "shop:app"\n[tool.pytest.ini_options]\npythonpath = "."'
    pytester.makepyprojecttoml(settings)
    pytester.makepyfile(shop=_module(), test_shop=f"from shop import *\n{BLOCKS[-1]}\n{MORE_TESTS}")

    result = pytester.runpytest_subprocess("-q", "-p", "no:cacheprovider")

    result.assert_outcomes(passed=3)


@pytest.mark.parametrize(
    "name",
    [
        "5 logins in 15 minutes",
        "100 an hour",
        "50 in 15 minutes",
        "600 a minute",
        "600 in 15 minutes",
        "6000 a minute",
    ],
)
def test_its_limits_are_those_of_the_code(name: str) -> None:
    spans = {"15 minutes": 900, "hour": 3600, "a minute": 60}
    all_limits = LoginLimits(SecuritySettings())
    limits = (*all_limits.login, *all_limits.login_of_account, *all_limits.refresh)
    counted = {(limit.dependency.quota.limit, limit.dependency.quota.per.total_seconds()) for limit in limits}
    count = int(name.split(maxsplit=1)[0])
    seconds = next(seconds for words, seconds in spans.items() if words in name)

    assert name in GUIDE
    assert (count, seconds) in counted
