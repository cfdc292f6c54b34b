"""Memcached over TLS: the server must be the one that its certificate names, and the deadline holds for handshakes."""

import asyncio
import ssl
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from serverless_session.deadline import may_block, within
from serverless_session.errors import StoreUnavailable
from serverless_session.stores import (
    ABSENT,
    Failed,
    Found,
    MemcachedStore,
    Outcome,
    Read,
    Written,
    memcached,
    memcached_links,
)
from serverless_session.testing.operations import new_key, one, present, write
from tests import servers
from tests.stores.faults import FaultyWire, silent


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For `localhost`, signed by itself, with its key behind it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "localhost.pem"
    path.write_bytes(
        certificate.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return path


@pytest.fixture(scope="module")
def tls_port(certificate: Path) -> Iterator[int]:
    port = servers._free_port()
    options = ["-Z", "-o", f"ssl_chain_cert={certificate},ssl_key={certificate}", "-l", f"127.0.0.1:{port}"]
    with servers.memcached(*options):
        yield port


@pytest.fixture(autouse=True)
def _time_for_handshakes(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine the first one takes longer than a connection may."""
    monkeypatch.setattr(memcached_links, "CONNECT_SECONDS", 2.0)


def trusting(certificate: Path) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(certificate))


@pytest.mark.parametrize("inline", [False, True], ids=["threads", "inline"])
async def test_it_keeps_and_finds(tls_port: int, certificate: Path, inline: bool) -> None:
    may_block.set(inline)
    store = MemcachedStore(f"memcacheds://localhost:{tls_port}", tls=trusting(certificate))
    with within(5.0):
        key, version = await present(store, b"v" * 300_000)
        for _ in range(3):
            assert await one(store, Read(key)) == Found(b"v" * 300_000, version)
        mine = write(key, b"new", expect=version)
        assert await one(store, mine) == Written()
        found = await asyncio.gather(*(one(store, Read(key)) for _ in range(20)))
        assert found == [Found(b"new", mine.version)] * 20
    await store.aclose()


def unavailable(outcome: Outcome) -> bool:
    return isinstance(outcome, Failed) and isinstance(outcome.error, StoreUnavailable)


async def test_a_server_that_is_not_trusted_or_not_the_one_named_gets_nothing(tls_port: int, certificate: Path) -> None:
    stranger = MemcachedStore(f"memcacheds://localhost:{tls_port}")  # trusts the machine's authorities alone
    other_name = MemcachedStore(f"memcacheds://127.0.0.1:{tls_port}", tls=trusting(certificate))
    plain = MemcachedStore(f"memcached://localhost:{tls_port}")
    for store in (stranger, other_name):
        assert unavailable(await one(store, Read(new_key())))
        assert unavailable(await one(store, write(new_key(), expect=ABSENT))), "nothing was sent"
        await store.aclose()
    assert unavailable(await one(plain, Read(new_key())))
    await plain.aclose()


async def test_a_handshake_that_is_never_answered_ends_in_time(tls_port: int, certificate: Path) -> None:
    async with FaultyWire(tls_port, then=silent) as wire:
        store = MemcachedStore(f"memcacheds://localhost:{wire.port}", tls=trusting(certificate))
        begun = time.monotonic()
        with within(0.4):
            assert unavailable(await one(store, write(new_key(), expect=ABSENT)))
        assert time.monotonic() - begun < 0.8
        await store.aclose()


async def test_the_file_that_ssl_cert_file_names_is_trusted(
    tls_port: int, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    memcached._default_tls.cache_clear()
    store = MemcachedStore(f"memcacheds://localhost:{tls_port}")
    assert await one(store, write(new_key(), expect=ABSENT)) == Written()
    await store.aclose()
    memcached._default_tls.cache_clear()


async def test_its_connection_is_kept(tls_port: int, certificate: Path) -> None:
    """What TLS says by itself after the handshake is no reason to distrust a connection."""
    async with FaultyWire(tls_port) as wire:
        through = MemcachedStore(f"memcacheds://localhost:{wire.port}", tls=trusting(certificate))
        for _ in range(5):
            await present(through)
        assert wire.connections == 1
        await through.aclose()
