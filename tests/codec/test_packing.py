"""What stands in front of a value, compression for those who ask for it, and what cannot be read."""

import functools
import json
import os
import random
import subprocess
import sys
import time
import tracemalloc
import zlib
from datetime import UTC, datetime
from typing import Any

import pytest

from serverless_session import SharedState
from serverless_session.codec import Serializer, packing
from serverless_session.codec.messagepack import MESSAGEPACK
from serverless_session.codec.packing import LARGEST_BYTES, Packer
from serverless_session.codec.serializers import JSON
from serverless_session.errors import ConfigurationError, DamagedValue, UnknownFormat, ValueNotSerializable
from serverless_session.stores import ABSENT, MemoryStore, Read, Write, Written, new_version
from tests.codec.test_serializers import same
from tests.sessions.apps import SECRET

MENU = {"dishes": [{"id": number, "name": f"dish {number}", "photo": b"x" * 20} for number in range(60)]}
BODY_BEGINS = {"json": 6, "msgpack": 9}
both = pytest.mark.parametrize("serializer", [JSON, MESSAGEPACK], ids=["json", "msgpack"])


# --- compression ------------------------------------------------------------------------------------------------------


@both
def test_only_who_asks_for_it_gets_it_and_everybody_reads_it(serializer: Serializer) -> None:
    packer = Packer(serializer)
    plain, compressed = packer.pack(MENU), packer.pack(MENU, compress=True)
    assert plain[0] == 0
    assert compressed[0] == 1
    assert len(compressed) < len(plain) / 2
    begins = BODY_BEGINS[serializer.name]
    assert int.from_bytes(compressed[begins : begins + 4]) == len(plain) - begins
    assert zlib.decompress(compressed[begins + 4 :]) == plain[begins:]
    for reader in (packer, Packer(serializer, compress_above_bytes=None)):
        assert same(reader.unpack(plain), MENU)
        assert same(reader.unpack(compressed), MENU)


@pytest.mark.parametrize(("above", "size", "compressed"), [(100, 100, 0), (100, 101, 1), (0, 30, 1), (None, 10_000, 0)])
def test_it_begins_above_a_size(above: int | None, size: int, compressed: int) -> None:
    text = "x" * (size - 2)  # two quotes around it
    packed = Packer(JSON, compress_above_bytes=above).pack(text, compress=True)
    assert packed[0] == compressed
    assert Packer(JSON).unpack(packed) == text


def test_what_does_not_get_smaller_is_kept_as_it_is() -> None:
    noise = os.urandom(5_000)
    packed = Packer(MESSAGEPACK).pack(noise, compress=True)
    assert packed[0] == 0
    assert Packer(MESSAGEPACK).unpack(packed) == noise


@functools.cache
def bomb(size: int) -> bytes:
    stream = zlib.compressobj(9)
    piece = bytes(1024 * 1024)
    return b"".join([stream.compress(piece) for _ in range(size // len(piece))]) + stream.flush()


def stream_of(body: bytes, *, claims: int | None = None) -> bytes:
    return b"\1\x04json" + (len(body) if claims is None else claims).to_bytes(4) + zlib.compress(body)


@pytest.mark.parametrize("claims", [2**30, 2**32 - 1, LARGEST_BYTES + 1, LARGEST_BYTES, 5_000, 0])
def test_a_bomb_is_refused_before_it_fills_the_memory(claims: int) -> None:
    """1 MB that would become 1 GiB: unpacked as far as it claims, and not at all where it claims too much."""
    exploding = b"\1\x04json" + claims.to_bytes(4) + bomb(1024 * 1024 * 1024)
    assert len(exploding) < 1_100_000
    tracemalloc.start()
    begun = time.process_time()
    with pytest.raises(DamagedValue):
        Packer(JSON).unpack(exploding)
    spent = time.process_time() - begun
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    if claims == LARGEST_BYTES:
        assert peak < 3 * LARGEST_BYTES
    else:
        assert peak < 5_000_000  # the stream itself, a few times
        assert spent < 0.1


def test_the_largest_value_is_read_and_one_byte_more_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "LARGEST_BYTES", 5_000)
    packer = Packer(JSON)
    largest, more = "x" * 4_998, "x" * 4_999
    assert packer.unpack(packer.pack(largest, compress=True)) == largest
    with pytest.raises(ValueNotSerializable, match=r"takes 5,001 bytes, and at most 5,000 can be compressed"):
        packer.pack(more, compress=True)
    assert packer.unpack(packer.pack(more)) == more, "what is not compressed has the store's limit alone"
    body = json.dumps(more).encode()
    for claims in (None, 5_000, 4_000, 0):
        with pytest.raises(DamagedValue):
            packer.unpack(stream_of(body, claims=claims))
    assert Packer(JSON).unpack(stream_of(b"[1]")) == [1]


@both
def test_a_stream_that_was_cut_or_changed_is_damaged(serializer: Serializer) -> None:
    packer = Packer(serializer)
    packed = packer.pack(MENU, compress=True)
    begins = BODY_BEGINS[serializer.name]
    for length in range(begins, len(packed)):
        with pytest.raises(DamagedValue):
            packer.unpack(packed[:length])
    for junk in (b"x", b"\0", packed[begins:]):
        with pytest.raises(DamagedValue):
            packer.unpack(packed + junk)
    dice, damaged = random.Random(5), 0
    for _ in range(200):
        at = dice.randrange(begins, len(packed))
        changed = packed[:at] + bytes((packed[at] ^ (1 << dice.randrange(8)),)) + packed[at + 1 :]
        try:
            assert packer.unpack(changed) == MENU, "a bit that means nothing: the end of a stream is filled up"
        except DamagedValue:
            damaged += 1
        with pytest.raises(DamagedValue):
            packer.unpack(packed[:begins] + dice.randbytes(50))
    assert damaged > 190


async def test_records_compress_where_the_feature_says_so() -> None:
    store = MemoryStore()
    shared = SharedState(store, secret_key=SECRET)
    sizes = {}
    for compress in (False, True):
        records = shared.records("cache", compress=compress)
        key = records.key(b"%d" % compress)
        write = Write(key, records.pack(MENU), ttl=60, version=new_version(), expect=ABSENT)
        assert list(await records.perform(write)) == [Written()]
        (kept,) = await records.perform(Read(key))
        assert same(shared.records("cache").unpack(kept.value), MENU)  # type: ignore[union-attr]
        sizes[compress] = len((await store.read(key)).value)  # type: ignore[union-attr]
    assert sizes[True] < sizes[False] / 2


@pytest.mark.parametrize("size", [-1, 1.5, "1k", True])
def test_a_size_that_is_none_is_a_configuration_error(size: Any) -> None:
    with pytest.raises(ConfigurationError) as refused:
        SharedState("memory://", compress_above_bytes=size)
    assert refused.value.code == "bad-size"
    assert "compress_above_bytes=1024" in refused.value.mend


# --- MessagePack ------------------------------------------------------------------------------------------------------


async def test_a_shared_state_may_change_its_serializer_and_reads_what_is_there() -> None:
    store = MemoryStore()
    orjson_like = Serializer("mine", lambda value: json.dumps(value).encode(), json.loads)
    by_name = {name: SharedState(store, secret_key=SECRET, serializer=name) for name in ("json", "msgpack")}
    by_name["mine"] = SharedState(store, secret_key=SECRET, serializer=orjson_like)
    by_name["replaced"] = by_name["msgpack"].replace(namespace="app")
    assert by_name["replaced"].packer.pack(b"x")[2:9] == b"msgpack"
    for written, read in [("json", "msgpack"), ("msgpack", "json"), ("msgpack", "mine"), ("json", "mine")]:
        assert by_name[read].packer.unpack(by_name[written].packer.pack({"a": [1, "b"]})) == {"a": [1, "b"]}
    with pytest.raises(UnknownFormat):
        by_name["json"].packer.unpack(by_name["mine"].packer.pack(1))


@pytest.mark.parametrize("name", ["json", "msgpack"])
def test_a_serializer_of_ones_own_has_a_name_of_its_own(name: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        SharedState("memory://", serializer=Serializer(name, json.dumps, json.loads))
    assert refused.value.code == "bad-serializer"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xc1",
        b"\x81\xa1a",
        b"\x01\x01",
        b"\xdd\xff\xff\xff\xff",
        b"\xdf\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
        b"\xdb\xff\xff\xff\xffabc",
        b"\x91" * 100_000,
        b"\x81\xa1a" * 100_000,
        b"\xa1\xff",
        b"\x81\x01\x02",
        b"\x82\xa1$\xa3int\xa1v\xa1x",
        b"\x82\xa1$\xa3set\xa1v\x91\x90",
    ],
)
def test_bytes_that_messagepack_did_not_write_are_damaged(body: bytes) -> None:
    tracemalloc.start()
    with pytest.raises(DamagedValue):
        Packer(MESSAGEPACK).unpack(b"\0\x07msgpack" + body)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 50_000_000


@pytest.mark.parametrize("body", [b"\xd4\x01x", b"\xc7\x01\x05x", b"\x82\xa1$\xa8fraction\xa1v\x92\x01\x02"])
def test_a_type_of_a_later_release_is_an_unknown_format(body: bytes) -> None:
    with pytest.raises(UnknownFormat, match="a type that this release does not know"):
        Packer(MESSAGEPACK).unpack(b"\0\x07msgpack" + body)


@pytest.mark.parametrize(
    ("body", "seconds"),
    [(b"\xd6\xff\0\0\0\1", 1), (b"\xd7\xff" + (1).to_bytes(8), 1), (b"\xc7\x0c\xff\0\0\0\0" + (2).to_bytes(8), 2)],
)
def test_a_timestamp_of_messagepacks_own_is_a_datetime(body: bytes, seconds: int) -> None:
    """Nothing but the types that we keep ever comes out, whatever was put in."""
    read = Packer(MESSAGEPACK).unpack(b"\0\x07msgpack" + body)
    assert same(read, datetime.fromtimestamp(seconds, UTC))
    with pytest.raises(DamagedValue):
        Packer(MESSAGEPACK).unpack(b"\0\x07msgpack\xc7\x0c\xff\0\0\0\0" + b"\x7f" * 8)


@pytest.mark.parametrize("packed", [b"", b"\0", b"\1"])
def test_less_than_a_head_is_damaged(packed: bytes) -> None:
    with pytest.raises(DamagedValue):
        Packer(JSON).unpack(packed)


def test_without_the_package_it_is_a_configuration_error_and_its_values_an_unknown_format() -> None:
    program = """
import sys
sys.modules["msgpack"] = None
from serverless_session import SharedState
from serverless_session.errors import ConfigurationError, UnknownFormat
shared = SharedState("memory://")
try:
    shared.packer.unpack(bytes.fromhex(sys.argv[1]))
except UnknownFormat:
    print("unknown format")
try:
    SharedState("memory://", serializer="msgpack")
except ConfigurationError as error:
    print(error.code, error.mend)
"""
    value = Packer(MESSAGEPACK).pack({"a": 1}).hex()
    done = subprocess.run([sys.executable, "-c", program, value], capture_output=True, text=True, check=True)
    assert done.stdout == 'unknown format\nmissing-extra pip install "serverless-session[msgpack]"\n'
