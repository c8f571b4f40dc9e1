"""A ring in a file: read again when it changes, refused when it is unsuitable, never half written."""

import json
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, get_args

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed448, rsa
from jwt.algorithms import get_default_algorithms

from backstay.errors import ConfigurationError
from backstay.security.key_file import KeyFile, read_key_ring, read_public_keys, write_key_ring
from backstay.security.keys import KeyRing, generate_key, rotate
from backstay.settings.security import SigningAlgorithm


class Clock:
    seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "keys.json"
    write_key_ring(KeyRing((generate_key("EdDSA"),)), path)
    return path


def key_ids(ring: KeyRing) -> list[str]:
    return [key.key_id for key in ring.keys]


@pytest.mark.parametrize("algorithm", get_args(SigningAlgorithm))
def test_what_was_written_is_read(algorithm: Any, tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    ring = rotate(KeyRing((generate_key(algorithm),), is_development=True), now=datetime.now(UTC))
    write_key_ring(ring, path)

    read = read_key_ring(path.read_bytes())

    def times(ring: KeyRing) -> list[tuple[object, ...]]:
        floor = [(key.key_id, key.algorithm, int(key.signs_from.timestamp())) for key in ring.keys]
        return [*floor, tuple(key.verifies_until is None for key in ring.keys)]

    assert times(read) == times(ring)
    assert read.is_development
    assert read.public_set() == ring.public_set()


def test_only_its_owner_can_read_what_was_written_and_nothing_else_is_left(path: Path) -> None:
    assert path.stat().st_mode & 0o777 == 0o600
    assert [each.name for each in path.parent.iterdir()] == ["keys.json"]


def test_a_file_keeps_its_mode_when_it_is_replaced(path: Path) -> None:
    path.chmod(0o640)
    write_key_ring(KeyRing((generate_key("EdDSA"),)), path)

    assert path.stat().st_mode & 0o777 == 0o640


def test_a_file_that_is_there_stays_when_it_is_not_to_be_replaced(path: Path) -> None:
    before = path.read_bytes()
    with pytest.raises(FileExistsError):
        write_key_ring(KeyRing((generate_key("EdDSA"),)), path, replace=False)

    assert path.read_bytes() == before
    assert [each.name for each in path.parent.iterdir()] == ["keys.json"]


def test_a_file_system_without_hard_links_does_as_well(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    before = path.read_bytes()
    ring = KeyRing((generate_key("EdDSA"),))
    with pytest.raises(FileExistsError):
        write_key_ring(ring, path, replace=False)
    assert path.read_bytes() == before

    path.unlink()
    write_key_ring(ring, path, replace=False)
    assert key_ids(KeyFile(path).ring()) == key_ids(ring)
    assert [each.name for each in path.parent.iterdir()] == ["keys.json"]


def test_a_changed_file_is_read_again_two_seconds_later(path: Path, clock: Clock) -> None:
    file = KeyFile(path, clock=clock)
    before = file.ring()
    write_key_ring(rotate(before, now=datetime.now(UTC)), path)

    clock.seconds = 1.9
    assert file.ring() is before
    clock.seconds = 2.0
    assert key_ids(file.ring()) == [before.keys[0].key_id, file.ring().keys[1].key_id]


def test_a_file_that_did_not_change_is_not_read_again(
    path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = KeyFile(path, clock=clock)
    before = file.ring()
    monkeypatch.setattr(Path, "read_bytes", lambda _: pytest.fail("it was read"))

    clock.seconds = 100
    assert file.ring() is before


@pytest.mark.parametrize("broken", ["", "{", "null", '{"keys": []}'])
def test_what_a_broken_file_held_before_goes_on_and_the_log_says_so_once(
    broken: str, path: Path, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    file = KeyFile(path, clock=clock)
    before = file.ring()
    good = path.read_text()

    path.write_text(broken)
    for clock.seconds in (2, 4, 6):
        assert file.ring() is before
    assert [record.levelname for record in caplog.records] == ["ERROR"]

    path.write_text(good)
    clock.seconds = 8
    assert key_ids(file.ring()) == key_ids(before)
    assert file.ring() is not before


def test_a_file_that_is_away_for_a_while_changes_nothing(path: Path, clock: Clock) -> None:
    file = KeyFile(path, clock=clock)
    before = file.ring()
    path.unlink()

    clock.seconds = 2
    assert file.ring() is before


def test_a_file_that_is_not_there_at_the_start_stops_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be read: No such file") as caught:
        KeyFile(tmp_path / "none.json")
    assert "backstay keys generate" in str(caught.value.hint)


@pytest.mark.parametrize("mode", [0o644, 0o604, 0o602, 0o660])
def test_production_refuses_a_file_that_others_can_read_or_write(mode: int, path: Path) -> None:
    path.chmod(mode)
    KeyFile(path)
    with pytest.raises(ConfigurationError, match="open to others") as caught:
        KeyFile(path, is_production=True)
    assert caught.value.hint == f"chmod 600 {path}"


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o440, 0o640])
def test_production_takes_a_file_of_the_service_and_its_group(mode: int, path: Path) -> None:
    path.chmod(mode)
    assert KeyFile(path, is_production=True).ring().keys


def test_production_refuses_keys_that_were_made_for_development(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    write_key_ring(KeyRing((generate_key("EdDSA"),), is_development=True), path)

    with pytest.raises(ConfigurationError, match="made for development"):
        KeyFile(path, is_production=True)


def members_of(algorithm: Any, **changes: object) -> dict[str, object]:
    from backstay.security.key_file import _write_signing_key

    return _write_signing_key(generate_key(algorithm)) | changes


def short_rsa() -> dict[str, object]:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return {"kid": "a", "alg": "RS256", **get_default_algorithms()["RS256"].to_jwk(key, as_dict=True)}


def other_curve() -> dict[str, object]:
    key = ec.generate_private_key(ec.SECP384R1())
    return {"kid": "a", "alg": "ES256", **get_default_algorithms()["ES384"].to_jwk(key, as_dict=True)}


def ed448_key() -> dict[str, object]:
    key = ed448.Ed448PrivateKey.generate()
    return {"kid": "a", "alg": "EdDSA", **get_default_algorithms()["EdDSA"].to_jwk(key, as_dict=True)}


UNSUITABLE: dict[str, dict[str, object]] = {
    "without alg": members_of("EdDSA", alg=None),
    "alg none": members_of("EdDSA", alg="none"),
    "alg of another kind": members_of("EdDSA", alg="RS256"),
    "an RSA key as a shared secret": members_of("RS256", alg="HS256"),
    "RSA of 2048 bits": short_rsa(),
    "another curve": other_curve(),
    "Ed448": ed448_key(),
    "a secret of 8 bytes": members_of("HS256", k="c2hvcnRrZXk"),
    "no secret": members_of("HS256", k=""),
    "a public key": {name: value for name, value in members_of("EdDSA").items() if name != "d"},
    "x is missing": {name: value for name, value in members_of("ES256").items() if name != "x"},
    "d of another key": members_of("EdDSA", d=members_of("EdDSA")["d"]),
    "d is a number": members_of("EdDSA", d=7),
    "no base64": members_of("EdDSA", d="#####"),
    "no kid": members_of("EdDSA", kid=None),
    "an empty kid": members_of("EdDSA", kid=""),
    "a kid that is no text": members_of("EdDSA", kid=3),
    "a time that is no number": members_of("EdDSA", signs_from="now"),
    "a time before 1970": members_of("EdDSA", signs_from=-1),
    "a time that no calendar has": members_of("EdDSA", signs_from=10**15),
    "a truth as a time": members_of("EdDSA", verifies_until=True),
}


@pytest.mark.parametrize("name", UNSUITABLE)
def test_a_key_that_is_not_good_for_its_algorithm_is_refused_and_not_shown(name: str) -> None:
    text = json.dumps({"keys": [UNSUITABLE[name]]})
    with pytest.raises(ConfigurationError) as caught:
        read_key_ring(text)

    secrets = [str(UNSUITABLE[name][member]) for member in ("d", "k", "x") if UNSUITABLE[name].get(member)]
    assert not [secret for secret in secrets if len(secret) > 8 and secret in str(caught.value)]
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    "text", ["", "7", "{}", '{"keys": 7}', '{"keys": {}}', '{"keys": []}', '{"keys": [7]}']
)
def test_what_is_no_jwk_set_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError):
        read_key_ring(text)


def test_two_keys_with_one_id_are_refused() -> None:
    twins = [members_of("EdDSA", kid="a"), members_of("EdDSA", kid="a")]
    with pytest.raises(ConfigurationError, match="same kid"):
        read_key_ring(json.dumps({"keys": twins}))


def test_of_a_foreign_set_only_the_keys_that_verify_are_taken() -> None:
    public = KeyRing((generate_key("ES256"),)).public_set()["keys"]
    encryption = {**public[0], "kid": "b", "use": "enc"}
    text = json.dumps({"keys": [*public, encryption, members_of("HS256"), short_rsa(), {"kty": "new"}, 7]})

    assert list(read_public_keys(text)) == [public[0]["kid"]]
    assert read_public_keys("{}") == {}
    with pytest.raises(ConfigurationError):
        read_public_keys("[]")


def test_a_reader_never_sees_half_a_file(path: Path) -> None:
    """Written in place, a reader would sooner or later find it empty."""
    ring = KeyFile(path).ring()
    is_done = threading.Event()
    failures: list[ConfigurationError] = []

    def read() -> None:
        while not is_done.is_set():
            try:
                read_key_ring(path.read_bytes())
            except ConfigurationError as error:
                failures.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    for hours in range(100):
        write_key_ring(rotate(ring, now=datetime.now(UTC) + timedelta(hours=hours)), path)
    is_done.set()
    reader.join()

    assert failures == []
    assert [each.name for each in path.parent.iterdir()] == ["keys.json"]
