"""Only what we sealed, for this key, purpose and namespace, opens; nothing else ever reaches a deserializer."""

import os
import random
from collections.abc import Callable

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from starlette.datastructures import Secret

from serverless_session.codec import KeyRing
from serverless_session.codec.keys import KEY_ID_BYTES, hkdf_expand, hkdf_extract
from serverless_session.codec.packing import Packer
from serverless_session.codec.sealing import OVERHEAD_BYTES, Opened, Sealer, length_prefixed
from serverless_session.codec.serializers import JSON, Serializer
from serverless_session.codec.xaes import XAES256GCM
from serverless_session.errors import (
    ConfigurationError,
    DamagedValue,
    ServerlessSessionError,
    UnknownFormat,
    UnknownKey,
    UnreadableValue,
)
from tests.codec.golden.values import FOLDER, GOLDEN, RING, Golden
from tests.codec.test_serializers import same

NEW, OLD, OTHER = ("a" * 20 + secret for secret in ("new-secret-1", "old-secret-2", "other-secret"))
KEY, ENDS_AT = "app:session:abcdefgh", 1_900_000_000.125
PACKED = b'\0\x04json{"user":7,"name":"ann"}'

HEAD_BYTES = 4 + KEY_ID_BYTES + 24


def sealer(ring: KeyRing | None = None, *, namespace: str = "app", purpose: str = "session") -> Sealer:
    return Sealer(ring or KeyRing(NEW), namespace=namespace, purpose=purpose)


SEALED = sealer().seal(PACKED, key=KEY, ends_at=ENDS_AT)


def opens_not(sealed: bytes, *, key: str = KEY, by: Sealer | None = None) -> type[UnreadableValue]:
    """The error with which it does not open."""
    with pytest.raises(UnreadableValue) as refused:
        (by or sealer()).open(sealed, key=key)
    assert type(refused.value) in (DamagedValue, UnknownKey, UnknownFormat)
    return type(refused.value)


class WatchedPacker(Packer):
    """Tells whether anything reached the deserializer."""

    def __init__(self) -> None:
        self.reached = list[bytes]()
        super().__init__(Serializer("watched", bytes, self._loads_and_tells))

    def _loads_and_tells(self, body: bytes) -> bytes:
        self.reached.append(body)
        return body


def test_what_was_sealed_opens() -> None:
    assert sealer().open(SEALED, key=KEY) == Opened(PACKED, ENDS_AT)
    assert len(SEALED) == OVERHEAD_BYTES + len(PACKED)


def test_nothing_of_it_can_be_read_and_no_two_seals_are_alike() -> None:
    again = {sealer().seal(PACKED, key=KEY, ends_at=ENDS_AT) for _ in range(100)}
    assert len(again) == 100
    for sealed in again:
        assert b"json" not in sealed
        assert b"ann" not in sealed
        assert sealed[:4] == b"ss\x01\x01"


def test_its_end_is_kept_to_the_millisecond() -> None:
    for ends_at in (0.0, 0.001, 1.5, 1_764_000_000.123, 4e9, 1e12):
        sealed = sealer().seal(PACKED, key=KEY, ends_at=ends_at)
        assert sealer().open(sealed, key=KEY).ends_at == ends_at


# --- broken inputs ----------------------------------------------------------------------------------------------------


def test_cut_anywhere_it_does_not_open() -> None:
    for length in range(len(SEALED)):
        assert opens_not(SEALED[:length]) is DamagedValue
    for first in range(1, len(SEALED)):
        opens_not(SEALED[first:])
    assert opens_not(SEALED + b"\0") is DamagedValue
    assert opens_not(SEALED + SEALED) is DamagedValue
    assert opens_not(b"") is DamagedValue


def test_with_any_bit_flipped_it_does_not_open() -> None:
    expected: list[tuple[range, type[UnreadableValue]]] = [
        (range(2), DamagedValue),  # magic
        (range(2, 4), UnknownFormat),  # format, suite
        (range(4, 8), UnknownKey),  # key id
        (range(8, len(SEALED)), DamagedValue),  # nonce, end, packed bytes, tag
    ]
    for places, error in expected:
        for at in places:
            for bit in range(8):
                changed = bytearray(SEALED)
                changed[at] ^= 1 << bit
                assert opens_not(bytes(changed)) is error


def test_moved_to_another_key_purpose_or_namespace_it_does_not_open() -> None:
    assert opens_not(SEALED, key=KEY + "i") is DamagedValue
    assert opens_not(SEALED, key=KEY[:-1]) is DamagedValue
    assert opens_not(SEALED, key="") is DamagedValue
    assert opens_not(SEALED, by=sealer(purpose="idempotency")) is DamagedValue
    assert opens_not(SEALED, by=sealer(namespace="other")) is DamagedValue


def test_what_is_bound_beside_it_cannot_be_shifted_from_one_part_to_the_next() -> None:
    """("app", "sessions", "x") and ("apps", "ession", "sx") are the same letters."""
    one = sealer(namespace="ab", purpose="c").seal(PACKED, key="d", ends_at=1)
    ring = KeyRing(NEW)
    key_id = ring.sealing_id

    class OneKey(KeyRing):
        """The same key for every purpose, so that only what is bound beside tells them apart."""

        def cipher(self, key_id: bytes, purpose: str) -> XAES256GCM:
            return ring.cipher(key_id, "c")

    same_key = OneKey(NEW)
    assert sealer(same_key, namespace="ab", purpose="c").open(one, key="d").packed == PACKED
    for namespace, purpose, key in (
        ("a", "bc", "d"),
        ("abc", "", "d"),
        ("ab", "cd", ""),
        ("", "abc", "d"),
        ("ab", "", "cd"),
    ):
        assert opens_not(one, key=key, by=sealer(same_key, namespace=namespace, purpose=purpose)) is DamagedValue
    assert key_id in one


def test_each_part_is_bound_by_itself() -> None:
    """The purpose has a key of its own; namespace and store key are told apart under one key, too."""
    ring = KeyRing(NEW)

    class OneKey(KeyRing):
        def cipher(self, key_id: bytes, purpose: str) -> XAES256GCM:
            return ring.cipher(key_id, "session")

    one_key = OneKey(NEW)
    assert sealer(one_key).open(SEALED, key=KEY).packed == PACKED
    assert opens_not(SEALED, by=sealer(one_key, purpose="other")) is DamagedValue
    assert opens_not(SEALED, by=sealer(one_key, namespace="other")) is DamagedValue
    assert opens_not(SEALED, by=sealer(one_key), key="other") is DamagedValue


def test_a_newer_format_or_another_suite_is_said_to_be_one() -> None:
    for head in (b"ss\x02\x01", b"ss\x01\x02", b"ss\x00\x01", b"ss\xff\xff"):
        assert opens_not(head + SEALED[4:]) is UnknownFormat
        assert opens_not(head) is UnknownFormat


def test_a_value_under_a_secret_we_lack_is_said_to_be_one() -> None:
    theirs = sealer(KeyRing(OTHER)).seal(PACKED, key=KEY, ends_at=ENDS_AT)
    assert opens_not(theirs) is UnknownKey
    with pytest.raises(UnknownKey) as refused:
        sealer().open(theirs, key=KEY)
    assert "SERVERLESS_SESSION_SECRET_KEY_FALLBACKS" in refused.value.mend


def test_with_another_key_id_in_it_it_opens_under_no_key() -> None:
    """The id is authenticated: exactly the key it names is tried, and that is not the one that sealed."""
    ring = KeyRing(NEW, open=[OLD, OTHER])
    for secret in (OLD, OTHER):
        swapped = SEALED[:4] + KeyRing(secret).sealing_id + SEALED[8:]
        assert opens_not(swapped, by=sealer(ring)) is DamagedValue
        assert opens_not(swapped, by=sealer(KeyRing(secret))) is DamagedValue
        assert opens_not(swapped, by=sealer(KeyRing(NEW))) is UnknownKey
        mended = swapped[:4] + KeyRing(NEW).sealing_id + swapped[8:]
        assert sealer(ring).open(mended, key=KEY).packed == PACKED


def test_the_key_id_is_authenticated_and_not_only_looked_up() -> None:
    class Twins(KeyRing):
        """Two ids that lead to the same key."""

        def cipher(self, key_id: bytes, purpose: str) -> XAES256GCM:
            return super().cipher(self.sealing_id, purpose)

    twins = Twins(NEW)
    assert sealer(twins).open(SEALED, key=KEY).packed == PACKED
    assert opens_not(SEALED[:4] + b"twin" + SEALED[8:], by=sealer(twins)) is DamagedValue


def broken(draw: st.DrawFn) -> bytes:
    """Random bytes, some with a head like ours, some of ours with a piece replaced."""
    junk = draw(st.binary(max_size=120))
    match draw(st.integers(0, 3)):
        case 0:
            return junk
        case 1:
            return b"ss\x01\x01" + KeyRing(NEW).sealing_id + junk
        case 2:
            return draw(st.sampled_from([b"ss", b"ss\x01", b"ss\x01\x01", b"ss\x02\x01"])) + junk
        case _:
            at = draw(st.integers(0, len(SEALED)))
            return SEALED[:at] + junk[:8] + SEALED[at + draw(st.integers(0, 8)) :]


WATCHED, WATCHED_SEALER = WatchedPacker(), sealer()


@given(st.composite(broken)())
@settings(max_examples=10_000, deadline=None)
@example(b"")
@example(b"ss\x01\x01")
def test_10_000_random_inputs_do_not_open(sealed: bytes) -> None:
    try:
        packed = WATCHED.unpack(WATCHED_SEALER.open(sealed, key=KEY).packed)
    except (DamagedValue, UnknownKey, UnknownFormat):
        assert not WATCHED.reached
    else:
        assert sealed == SEALED, packed


def test_the_watched_deserializer_is_reached_by_what_was_sealed() -> None:
    packer = WatchedPacker()
    sealed = sealer().seal(packer.pack(b"x"), key=KEY, ends_at=1)
    packer.reached.clear()
    assert packer.unpack(sealer().open(sealed, key=KEY).packed) == b"x"
    assert packer.reached == [b"x"]


def test_nothing_broken_reaches_the_deserializer() -> None:
    packer = WatchedPacker()
    sealed = sealer().seal(packer.pack(b"x"), key=KEY, ends_at=1)
    packer.reached.clear()
    seed = random.randrange(1 << 32)
    print("seed", seed)
    dice = random.Random(seed)
    for _ in range(2_000):
        changed = bytearray(sealed)
        for _ in range(dice.randint(1, 4)):
            changed[dice.randrange(len(changed))] = dice.randrange(256)
        if bytes(changed) == sealed:
            continue
        with pytest.raises(UnreadableValue):
            packer.unpack(sealer().open(bytes(changed), key=KEY).packed)
    assert packer.reached == []


def test_no_error_shows_anything() -> None:
    for sealed in (SEALED[:-1], b"ss\x02\x01" + SEALED[4:], SEALED[:4] + b"none" + SEALED[8:], b"secret"):
        with pytest.raises(ServerlessSessionError) as refused:
            sealer().open(sealed, key=KEY)
        for shown in (str(refused.value), repr(refused.value)):
            for secret in (KEY, NEW, "ann", "secret-1", SEALED.hex()[:8], "'ss"):
                assert secret not in shown
        assert refused.value.__cause__ is None


# --- the key ring -----------------------------------------------------------------------------------------------------


def test_rotation() -> None:
    """Deploy the new secret to open, then to seal, then drop the old one: at no step is a value unreadable."""
    before, both, after, done = KeyRing(OLD), KeyRing(OLD, open=[NEW]), KeyRing(NEW, open=[OLD]), KeyRing(NEW)

    def passes(sealing: KeyRing, opening: KeyRing) -> bool:
        try:
            return sealer(opening).open(sealer(sealing).seal(PACKED, key=KEY, ends_at=1), key=KEY).packed == PACKED
        except UnknownKey:
            return False

    for one, other in ((before, both), (both, after), (after, done)):
        assert passes(one, one)
        assert passes(other, other)
    assert passes(before, both)
    assert passes(both, before)
    assert passes(both, after)
    assert passes(after, both)
    assert passes(before, after)
    assert not passes(before, done)
    assert not passes(after, before), "why the new secret is first deployed only to open"


def test_each_purpose_has_a_key_of_its_own() -> None:
    ring = KeyRing(NEW, open=[OLD])
    keys = {
        ring.key(key_id, purpose)
        for key_id in (ring.sealing_id, KeyRing(OLD).sealing_id)
        for purpose in ("session", "idempotency", "cookie", "key id", "")
    }
    assert len(keys) == 10
    assert {len(key) for key in keys} == {32}


def test_a_ring_knows_its_ids_and_shows_nothing() -> None:
    ring = KeyRing(NEW, open=[OLD, OLD, NEW])
    assert repr(ring) == "KeyRing(2 secrets)"
    assert ring.sealing_id in ring
    assert KeyRing(OLD).sealing_id in ring
    assert KeyRing(OTHER).sealing_id not in ring
    assert len(ring.sealing_id) == KEY_ID_BYTES
    with pytest.raises(UnknownKey):
        ring.key(b"none", "session")


def test_the_same_secret_makes_the_same_keys_everywhere() -> None:
    assert KeyRing(NEW).sealing_id == KeyRing(Secret(NEW)).sealing_id
    assert RING.sealing_id == GOLDEN[0].path.read_bytes()[4:8]


class PydanticLike:
    def get_secret_value(self) -> str:
        return NEW


def test_secrets_of_frameworks_are_secrets() -> None:
    from pydantic import SecretStr

    expected = KeyRing(NEW).sealing_id
    for secret in (NEW, Secret(NEW), SecretStr(NEW), PydanticLike()):
        assert KeyRing(secret).sealing_id == expected


@pytest.mark.parametrize("secret", [b"HUNTER2" * 8, 7, None, ["HUNTER2"]])
def test_anything_else_is_no_secret(secret: object) -> None:
    with pytest.raises(ConfigurationError) as refused:
        KeyRing(secret)  # type: ignore[arg-type]
    assert refused.value.code == "bad-secret"
    assert type(secret).__name__ in str(refused.value)
    assert "HUNTER2" not in str(refused.value)
    assert len(str(refused.value).splitlines()) == 3


def test_hkdf_is_rfc_5869s() -> None:
    """Appendix A, test cases 1 to 3."""
    cases = [
        (b"\x0b" * 22, bytes(range(13)), bytes(range(0xF0, 0xFA)), 42,
         "077709362c2e32df0ddc3f0dc47bba6390b6c73bb50f9c3122ec844ad7c2b3e5",
         "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865"),
        (bytes(range(0x50)), bytes(range(0x60, 0xB0)), bytes(range(0xB0, 0x100)), 82,
         "06a6b88c5853361a06104c9ceb35b45cef760014904671014a193f40c15fc244",
         "b11e398dc80327a1c8e7f78c596a49344f012eda2d4efad8a050cc4c19afa97c59045a99cac7827271cb41c65e590e09"
         "da3275600c2f09b8367793a9aca3db71cc30c58179ec3e87c14c01d5c1f3434f1d87"),
        (b"\x0b" * 22, b"", b"", 42,
         "19ef24a32c717b167f33a91d6f648bdf96596776afdb6377ac434c1c293ccb04",
         "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8"),
    ]  # fmt: skip
    for secret, salt, info, length, extracted, expanded in cases:
        assert hkdf_extract(salt, secret).hex() == extracted
        assert hkdf_expand(bytes.fromhex(extracted), info, length).hex() == expanded


def test_fields_are_told_apart_by_their_lengths() -> None:
    assert length_prefixed(b"a", b"bc") == b"\0\0\0\1a\0\0\0\2bc"
    different: list[Callable[[], bytes]] = [
        lambda: length_prefixed(b"a", b"bc"),
        lambda: length_prefixed(b"ab", b"c"),
        lambda: length_prefixed(b"abc"),
        lambda: length_prefixed(b"abc", b""),
        lambda: length_prefixed(b"", b"abc"),
        lambda: length_prefixed(),
        lambda: length_prefixed(b""),
    ]
    assert len({make() for make in different}) == len(different)


# --- golden bytes -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("golden", GOLDEN, ids=lambda golden: golden.name)
def test_what_earlier_releases_sealed_still_opens(golden: Golden) -> None:
    sealed = golden.path.read_bytes()
    by = Sealer(RING, namespace=golden.namespace, purpose=golden.purpose)
    opened = by.open(sealed, key=golden.key)
    assert opened.ends_at == golden.ends_at
    assert same(Packer(JSON).unpack(opened.packed), golden.value)
    with pytest.raises(DamagedValue):
        by.open(sealed[:-1] + bytes((sealed[-1] ^ 1,)), key=golden.key)


def test_every_golden_file_is_listed() -> None:
    assert sorted(path.name for path in FOLDER.glob("*.sealed")) == sorted(golden.path.name for golden in GOLDEN)


def test_a_secret_that_only_opens_sealed_one_of_them() -> None:
    sealed = next(golden for golden in GOLDEN if golden.name == "1-older-secret").path.read_bytes()
    assert sealed[4:8] != RING.sealing_id
    assert sealed[4:8] in RING


def test_nonces_come_from_the_system(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = list[int]()
    monkeypatch.setattr(os, "urandom", lambda count: asked.append(count) or bytes(count))  # type: ignore[func-returns-value]
    sealer().seal(PACKED, key=KEY, ends_at=1)
    assert asked == [24]
