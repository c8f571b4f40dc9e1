"""Passwords are checked, hashed in a bounded pool, and verified without telling who exists."""

import asyncio
import re
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pwdlib import PasswordHash
from pwdlib.hashers.argon2 import Argon2Hasher

from backstay.errors import UnavailableError, UsageError, WeakPasswordError
from backstay.security._common_passwords import CommonPasswords
from backstay.security.passwords import PasswordCheck, Passwords
from backstay.settings import SecuritySettings

GOOD = "correct horse battery staple"
CHEAP: dict[str, Any] = {"argon2_memory_kib": 32, "argon2_time_cost": 1}


@pytest.fixture
async def passwords() -> AsyncIterator[Passwords]:
    async with Passwords(SecuritySettings(**CHEAP, password_threads=2)) as passwords:
        yield passwords


def refuse(password: str, *context: str, **settings: Any) -> WeakPasswordError:
    with pytest.raises(WeakPasswordError) as caught:
        Passwords(SecuritySettings(**settings)).check_password(password, context=context)
    return caught.value


def accept(password: str, *context: str, **settings: Any) -> None:
    Passwords(SecuritySettings(**settings)).check_password(password, context=context)


# What a new password has to be


def test_characters_are_counted_as_code_points_after_normalization() -> None:
    accept("пятнадцатьбукв!")
    accept("🦊🐼🐸🦉🐝🐙🦄🐳🐌🦋🐞🦀🐬🦓🦔")
    assert refuse("🦊🐼🐸🦉🐝🐙🦄🐳🐌🦋🐞🦀🐬🦓").reason == "too_short"
    # Eight letters with eight accents are eight characters, however the keyboard spells them.
    assert refuse("".join(f"{letter}\u0301" for letter in "aeiouync")).reason == "too_short"


@pytest.mark.parametrize(
    "password",
    ["all lower case words", "ALL UPPER CASE WORDS", "4711 0815 2342 9876", "               x y z"],
)
def test_no_kind_of_character_is_asked_for_and_none_is_special(password: str) -> None:
    accept(f"{password} ")


def test_the_least_length_is_a_setting_and_never_below_8() -> None:
    assert refuse("zK4!qP9w").detail == (
        "Use at least 15 characters; several words in a row are easy to remember."
    )
    accept("zK4!qP9w", password_min_length=8)


def test_a_password_of_a_kilobyte_is_taken_whole_and_a_longer_one_refused() -> None:
    words = " ".join(f"word{number}" for number in range(200))
    accept(words[:1024])
    assert refuse(words[:1025]).reason == "too_long"


def test_a_lone_surrogate_is_no_password() -> None:
    assert refuse("\ud800" * 20).reason == "not_text"


@pytest.mark.parametrize(
    "password",
    ["1qaz2wsx3edc4rfv", "PasswordPassword", "manchesterunited", "30secondstomars", "qwertyuiopasdfg"],
)
def test_one_of_those_that_are_tried_first_is_refused_in_any_case(password: str) -> None:
    assert refuse(password).reason == "common"
    assert refuse(password.upper()).reason == "common"


@pytest.mark.parametrize("password", ["password1", "iloveyou1", "trustno1", "football123"])
def test_shorter_ones_are_refused_where_shorter_ones_are_allowed(password: str) -> None:
    assert refuse(password, password_min_length=8).reason == "common"


@pytest.mark.parametrize(
    "password",
    [
        "aaaaaaaaaaaaaaa",
        "               ",
        "abcabcabcabcabc",
        "xK9!xK9!xK9!xK9!",
        "zebrazebrazebra1!",
        "abcdefghijklmno",
        "zyxwvutsrqponmlk",
        "345678901234567890",
        "09876543210987654",
    ],
)
def test_a_pattern_is_refused(password: str) -> None:
    assert refuse(password).reason == "common"


@pytest.mark.parametrize(
    "password",
    [
        "ShopShopShop2026",
        "ada.lovelace2026!",
        "Lovelace-Lovelace",
        "shop-password123",
        "ada.lovelace@example.org",
        "lovelace 12345678",
    ],
)
def test_names_that_others_know_do_not_make_a_password(password: str) -> None:
    error = refuse(password, "Shop", "ada.lovelace@example.org")
    assert error.reason == "context"


@pytest.mark.parametrize(
    "password", ["shopping with lobsters", "the workshop of quiet owls", "a lovelace over troubled water"]
)
def test_names_inside_of_a_long_password_do_no_harm(password: str) -> None:
    accept(password, "Shop", "ada.lovelace@example.org")


@pytest.mark.parametrize(
    ("password", "context"),
    [
        ("canary7", ()),
        ("canary" * 200, ()),
        ("canarycanarycanary", ()),
        ("canary-shop-1234", ("canary-shop",)),
    ],
)
def test_what_is_said_about_a_password_holds_nothing_of_it(password: str, context: tuple[str, ...]) -> None:
    error = refuse(password, *context)

    assert "canary" not in f"{error} {error.detail} {error.extensions} {error.__context__}"
    assert error.extensions == {"reason": error.reason}


def test_the_list_holds_as_many_as_the_documentation_says() -> None:
    assert len(CommonPasswords()) == 106_629


@given(st.text(max_size=40), st.lists(st.text(max_size=10), max_size=3))
def test_any_text_is_accepted_or_refused_and_nothing_else(password: str, context: list[str]) -> None:
    with suppress(WeakPasswordError):
        accept(password, *context)


# Hashing


async def test_the_right_password_is_right_and_no_other(passwords: Passwords) -> None:
    stored = await passwords.hash(GOOD)

    assert await passwords.verify(GOOD, stored) == PasswordCheck(is_right=True)
    for wrong in (f"{GOOD} ", GOOD.upper(), GOOD[:-1], "", f"{GOOD}\0", "\ud800", "a" * 5000):
        assert await passwords.verify(wrong, stored) == PasswordCheck(is_right=False)


async def test_the_same_password_has_another_hash_each_time(passwords: Passwords) -> None:
    assert await passwords.hash(GOOD) != await passwords.hash(GOOD)


async def test_nothing_is_cut_off(passwords: Passwords) -> None:
    """bcrypt reads 72 bytes."""
    long = "word " * 200
    stored = await passwords.hash(long)

    assert (await passwords.verify(long, stored)).is_right
    assert not (await passwords.verify(f"{long[:-1]}x", stored)).is_right


async def test_both_spellings_of_an_accent_are_the_same_password(passwords: Passwords) -> None:
    composed, decomposed = "ma\u00f1ana por la ma\u00f1ana", "man\u0303ana por la man\u0303ana"
    assert (await passwords.verify(decomposed, await passwords.hash(composed))).is_right
    assert not (await passwords.verify("x\u00b2" * 8, await passwords.hash("x2" * 8))).is_right


@pytest.mark.parametrize("stored", [None, "", "!", "$2b$12$abc", "$argon2id$v=19$m=1"])
async def test_where_there_is_no_hash_nothing_is_right(passwords: Passwords, stored: str | None) -> None:
    for password in (GOOD, "", passwords._dummy):
        assert await passwords.verify(password, stored) == PasswordCheck(is_right=False)


async def test_the_default_cost_is_that_of_the_cheat_sheet() -> None:
    async with Passwords(SecuritySettings()) as passwords:
        assert (await passwords.hash(GOOD)).startswith("$argon2id$v=19$m=19456,t=2,p=1$")
        assert passwords._dummy.startswith("$argon2id$v=19$m=19456,t=2,p=1$")


@pytest.mark.parametrize("older", [(1, 16, 1), (2, 32, 1), (1, 32, 2)])
async def test_a_hash_of_other_settings_is_to_be_replaced_at_the_login(
    passwords: Passwords, older: tuple[int, int, int]
) -> None:
    stored = PasswordHash([Argon2Hasher(*older)]).hash(GOOD)

    assert (await passwords.verify("wrong", stored)).new_hash is None
    check = await passwords.verify(GOOD, stored)

    assert check.is_right
    assert check.new_hash is not None
    assert "t=1,p=1" in check.new_hash
    assert await passwords.verify(GOOD, check.new_hash) == PasswordCheck(is_right=True)
    assert check.new_hash not in repr(check)


async def test_what_was_never_checked_cannot_be_hashed(passwords: Passwords) -> None:
    for password in ("\ud800", "a" * 5000):
        with pytest.raises(UsageError):
            await passwords.hash(password)


async def test_passwords_that_are_not_open_say_so() -> None:
    passwords = Passwords(SecuritySettings())
    with pytest.raises(UsageError, match="async with"):
        await passwords.verify(GOOD, None)


# The pool


class Gate:
    """Stands in for the work of a thread, until it is opened."""

    def __init__(self) -> None:
        self.is_open = threading.Event()
        self.running = 0
        self.most = 0
        self._lock = threading.Lock()

    def hash(self, *_: object) -> str:
        with self._lock:
            self.running += 1
            self.most = max(self.most, self.running)
        self.is_open.wait(10)
        with self._lock:
            self.running -= 1
        return "hash"


@pytest.fixture
async def gate(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Gate, Passwords]]:
    async with Passwords(SecuritySettings(**CHEAP, password_threads=2, password_queue=3)) as passwords:
        gate = Gate()
        monkeypatch.setattr(passwords._hasher, "hash", gate.hash)
        yield gate, passwords
        gate.is_open.set()


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not is_so():  # noqa: ASYNC110  threads set no event of the loop's
            await asyncio.sleep(0.001)


async def test_no_more_hash_at_once_than_there_are_threads_and_no_more_wait_than_may(
    gate: tuple[Gate, Passwords],
) -> None:
    door, passwords = gate
    waiting = [asyncio.create_task(passwords.hash(GOOD)) for _ in range(5)]
    await asyncio.sleep(0)

    with pytest.raises(UnavailableError) as caught:
        await passwords.hash(GOOD)
    assert caught.value.headers == {"Retry-After": "1"}

    door.is_open.set()
    assert await asyncio.gather(*waiting) == ["hash"] * 5
    assert door.most == 2
    assert await passwords.hash(GOOD) == "hash"


async def test_a_caller_that_leaves_gives_its_place_back_when_the_thread_is_free(
    gate: tuple[Gate, Passwords],
) -> None:
    door, passwords = gate
    callers = [asyncio.create_task(passwords.hash(GOOD)) for _ in range(5)]
    await until(lambda: door.running == 2)

    for caller in callers:
        caller.cancel()
    await asyncio.gather(*callers, return_exceptions=True)
    # Three never began; two threads are still at it.
    await until(lambda: passwords._jobs == 2)

    door.is_open.set()
    assert await passwords.hash(GOOD) == "hash"
    await until(lambda: passwords._jobs == 0)


async def test_the_loop_goes_on_while_passwords_are_hashed() -> None:
    async with Passwords(SecuritySettings(password_threads=1)) as passwords:
        hashing = asyncio.create_task(passwords.hash(GOOD))
        turns = 0
        while not hashing.done():
            await asyncio.sleep(0)
            turns += 1
    assert turns > 5


async def test_closing_ends_the_threads_and_so_does_failing_to_open(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Passwords(SecuritySettings(**CHEAP)):
        pass

    def run_out_of_memory(*_: object) -> str:
        raise MemoryError

    passwords = Passwords(SecuritySettings(**CHEAP))
    monkeypatch.setattr(passwords._hasher, "hash", run_out_of_memory)
    with pytest.raises(MemoryError):
        await passwords.__aenter__()

    assert not [thread for thread in threading.enumerate() if re.match("backstay-passwords", thread.name)]
