"""A ring says at each moment what signs, what verifies and what is published."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, get_args

import pytest

from backstay.errors import ConfigurationError
from backstay.security.keys import DEFAULT_OVERLAP, JWKS_MAX_AGE, KeyRing, generate_key, rotate
from backstay.settings.security import MAX_ACCESS_TTL, MAX_LEEWAY, SigningAlgorithm

NOW = datetime(2026, 11, 29, 12, tzinfo=UTC)
SECOND = timedelta(seconds=1)
PRIVATE_MEMBERS = {"d", "p", "q", "dp", "dq", "qi", "oth", "k"}


@pytest.fixture
def ring() -> KeyRing:
    return KeyRing((generate_key("EdDSA", signs_from=NOW),))


def test_a_new_key_is_published_at_once_and_signs_after_the_overlap(ring: KeyRing) -> None:
    rotated = rotate(ring, now=NOW)
    old, new = rotated.keys

    assert {key["kid"] for key in published(rotated, NOW)} == {old.key_id, new.key_id}
    assert rotated.signing_key(NOW + DEFAULT_OVERLAP - SECOND) == old
    assert rotated.signing_key(NOW + DEFAULT_OVERLAP) == new
    assert DEFAULT_OVERLAP >= MAX_ACCESS_TTL + JWKS_MAX_AGE


def test_the_key_before_verifies_until_its_last_token_has_expired(ring: KeyRing) -> None:
    rotated = rotate(ring, now=NOW)
    old = rotated.keys[0]
    last_token_ends = NOW + DEFAULT_OVERLAP + MAX_ACCESS_TTL + MAX_LEEWAY

    assert rotated.find(old.key_id, last_token_ends) is not None
    assert old.verifies_until is not None
    assert rotated.find(old.key_id, old.verifies_until) is None
    assert published(rotated, old.verifies_until) == published(rotated, NOW)[1:]


def test_a_key_that_does_not_sign_yet_verifies(ring: KeyRing) -> None:
    """The clock of the machine that signs may be ahead of ours."""
    rotated = rotate(ring, now=NOW)

    assert rotated.find(rotated.keys[1].key_id, NOW) is not None


def test_keys_whose_time_is_over_leave_the_ring(ring: KeyRing) -> None:
    rotated = rotate(ring, now=NOW)
    end = rotated.keys[0].verifies_until
    assert end is not None

    again = rotate(rotated, now=end)

    assert again.keys[0].key_id == rotated.keys[1].key_id
    assert len(again.keys) == 2


def test_rotating_twice_in_a_row_leaves_no_moment_without_a_key(ring: KeyRing) -> None:
    rotated = rotate(rotate(ring, now=NOW, overlap=timedelta(hours=2)), now=NOW + SECOND)
    first, middle, last = rotated.keys

    moments = [NOW + minutes * timedelta(minutes=1) for minutes in range(300)]
    signing = list(dict.fromkeys(rotated.signing_key(moment).key_id for moment in moments))

    assert signing == [first.key_id, middle.key_id, last.key_id]
    for moment in moments:
        assert rotated.find(rotated.signing_key(moment).key_id, moment + MAX_ACCESS_TTL + MAX_LEEWAY)


def test_an_end_that_somebody_set_earlier_is_kept(ring: KeyRing) -> None:
    end = NOW + timedelta(minutes=30)
    rotated = rotate(KeyRing((replace(ring.keys[0], verifies_until=end),)), now=NOW)

    assert rotated.keys[0].verifies_until == end


def test_an_overlap_shorter_than_others_remember_is_refused(ring: KeyRing) -> None:
    with pytest.raises(ConfigurationError, match="19 minutes is too short"):
        rotate(ring, now=NOW, overlap=timedelta(minutes=19))


def test_a_rotation_may_change_the_algorithm(ring: KeyRing) -> None:
    assert [key.algorithm for key in rotate(ring, now=NOW, algorithm="ES256").keys] == ["EdDSA", "ES256"]
    assert [key.algorithm for key in rotate(ring, now=NOW).keys] == ["EdDSA", "EdDSA"]


def test_the_first_key_signs_also_by_a_clock_that_is_behind(ring: KeyRing) -> None:
    assert ring.signing_key(NOW - SECOND) == ring.keys[0]
    assert rotate(ring, now=NOW).signing_key(NOW - SECOND).key_id == ring.keys[0].key_id


def test_a_ring_whose_time_is_over_says_so(ring: KeyRing) -> None:
    over = KeyRing((replace(ring.keys[0], verifies_until=NOW),))
    with pytest.raises(ConfigurationError, match="time of all keys"):
        over.signing_key(NOW)


@pytest.mark.parametrize("algorithm", get_args(SigningAlgorithm))
def test_neither_the_public_set_nor_a_repr_shows_what_signs(algorithm: Any) -> None:
    key = generate_key(algorithm, signs_from=NOW)
    ring = KeyRing((key,))

    assert not {name for members in published(ring, NOW) for name in members} & PRIVATE_MEMBERS
    assert len(published(ring, NOW)) == (0 if algorithm == "HS256" else 1)
    assert "material" not in repr(key) + repr(key.public) + repr(ring)


def test_two_keys_have_two_ids() -> None:
    assert generate_key("EdDSA").key_id != generate_key("EdDSA").key_id


def published(ring: KeyRing, now: datetime) -> list[dict[str, Any]]:
    return ring.public_set(now)["keys"]
