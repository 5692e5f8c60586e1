"""build_tls: what the files hold, what a handshake with the context does, and every fault."""

from __future__ import annotations

import functools
import gc
import os
import pty
import select
import ssl
import subprocess
import sys
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from hypothesis import given
from hypothesis import strategies as st

from ginsfsm.net.tls import SslOptions, Tls, TlsError, all_faults, build_tls

PASSPHRASE = "correct horse"
EARLIER = datetime.now(UTC) - timedelta(days=30)
LATER = datetime.now(UTC) + timedelta(days=30)


# Files, made once


@dataclass(frozen=True)
class Files:
    """A certificate on disk: alone, with its key, and the key alone, plain and encrypted."""

    folder: Path
    name: str

    def __getattr__(self, kind: str) -> str:
        return str(self.folder / f"{self.name}.{kind}")


class Store:
    """Makes each certificate when it is asked for the first time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ca = trustme.CA(key_type=trustme.KeyType.ECDSA)
        self.other_ca = trustme.CA(key_type=trustme.KeyType.ECDSA)
        self.ca_file = str(folder / "ca.pem")
        self.other_ca_file = str(folder / "other_ca.pem")
        self.ca.cert_pem.write_to_path(self.ca_file)
        self.other_ca.cert_pem.write_to_path(self.other_ca_file)

    @functools.cache  # noqa: B019 - a store lives as long as the tests
    def leaf(self, name: str, *, ca: str = "ca", begin: Any = None, end: Any = None) -> Files:
        leaf = getattr(self, ca).issue_cert(
            name, not_before=begin, not_after=end, key_type=trustme.KeyType.ECDSA
        )
        number = len(list(self.folder.iterdir()))
        files = Files(self.folder, f"{number}-{name.replace('*', 'star')}")
        leaf.cert_chain_pems[0].write_to_path(files.crt)
        leaf.private_key_pem.write_to_path(files.key)
        leaf.private_key_and_cert_chain_pem.write_to_path(files.pem)
        key = load_pem_private_key(leaf.private_key_pem.bytes(), None)
        for kind, form in (
            ("enc", PrivateFormat.PKCS8), ("old", PrivateFormat.TraditionalOpenSSL),
        ):  # fmt: skip
            encrypted = key.private_bytes(
                Encoding.PEM, form, BestAvailableEncryption(PASSPHRASE.encode())
            )
            Path(getattr(files, kind)).write_bytes(encrypted)
        return files


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def a(store: Store) -> Files:
    return store.leaf("a.example.com")


@pytest.fixture(scope="module")
def b(store: Store) -> Files:
    return store.leaf("b.example.com")


@contextmanager
def unprivileged() -> Iterator[None]:
    """As a user who may not read what nobody may; root may read everything."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


# Handshakes, in memory


class Pair:
    """Two ends of a connection without a network."""

    def __init__(
        self,
        server: ssl.SSLContext,
        client: ssl.SSLContext,
        name: str | None = "a.example.com",
        session: ssl.SSLSession | None = None,
    ) -> None:
        self.to_server, self.to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.server = server.wrap_bio(self.to_server, self.to_client, server_side=True)
        self.client = client.wrap_bio(
            self.to_client, self.to_server, server_hostname=name, session=session
        )

    def handshake(self) -> Pair:
        waiting = [self.client, self.server]
        for _ in range(10):
            for end in list(waiting):
                try:
                    end.do_handshake()
                    waiting.remove(end)
                except ssl.SSLWantReadError:
                    pass
            if not waiting:
                break
        assert not waiting
        # The client reads the tickets, which come with the first data.
        self.server.write(b"hello")
        assert self.client.read() == b"hello"
        self.client.write(b"world")
        assert self.server.read() == b"world"
        return self

    @property
    def names(self) -> tuple[str, ...]:
        """The names in the certificate that the client got."""
        certificate = self.client.getpeercert()
        assert certificate is not None
        return tuple(name for _, name in certificate["subjectAltName"])

    @property
    def cipher(self) -> str:
        cipher = self.client.cipher()
        assert cipher is not None
        return cipher[0]


def server(files: Files, **options: Any) -> Tls:
    return build_tls({"certfile": files.crt, "keyfile": files.key, **options}, server_side=True)


@pytest.fixture
def client(store: Store) -> Callable[..., ssl.SSLContext]:
    """A client that is Python's own; it trusts our authority."""

    def make(*, name: bool = False, newest: str = "TLSv1_3", **kwargs: Any) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = name
        context.load_verify_locations(store.ca_file)
        context.maximum_version = ssl.TLSVersion[newest]
        for key, value in kwargs.items():
            getattr(context, key)(*value)
        return context

    return make


Client = Callable[..., ssl.SSLContext]
BOTH_VERSIONS = pytest.mark.parametrize("newest", ["TLSv1_2", "TLSv1_3"])


def refusal(options: dict[str, Any], *, server_side: bool = True) -> tuple[str, ...]:
    """The faults; the error must show no secret and drag no other error along."""
    with pytest.raises(TlsError) as caught:
        build_tls(options, server_side=server_side)
    error = caught.value
    assert isinstance(error, ValueError)
    assert all(fault in str(error) for fault in error.faults)
    assert PASSPHRASE not in f"{error!r} {error}"
    assert "MIG" not in f"{error!r} {error}"
    assert (error.__cause__, error.__context__) == (None, None)
    return error.faults


class TestDefaults:
    @BOTH_VERSIONS
    def test_a_server(self, a: Files, client: Client, newest: str) -> None:
        pair = Pair(server(a).context, client(name=True, newest=newest)).handshake()
        assert pair.names == ("a.example.com",)
        assert pair.client.version() == {"TLSv1_2": "TLSv1.2", "TLSv1_3": "TLSv1.3"}[newest]
        assert pair.server.getpeercert() is None

    def test_a_key_in_the_file_of_the_certificate(self, a: Files, client: Client) -> None:
        tls = build_tls({"certfile": Path(a.pem)}, server_side=True)
        Pair(tls.context, client()).handshake()
        assert tls.files == (a.pem,)

    def test_what_a_server_tells_of_itself(self, a: Files) -> None:
        tls = server(a)
        assert tls.server_side is True
        assert tls.server_hostname is None
        assert [one.names for one in tls.certificates] == [("a.example.com",)]
        assert tls.certificates[0].file == a.crt
        assert tls.files == (a.crt, a.key)
        assert tls.warnings == ()

    @pytest.mark.parametrize("server_side", [True, False])
    def test_the_settings(self, a: Files, server_side: bool) -> None:
        context = build_tls({"certfile": a.pem}, server_side=server_side).context
        assert context.minimum_version == ssl.TLSVersion.TLSv1_2
        assert context.maximum_version == ssl.TLSVersion.TLSv1_3
        for wanted in (
            ssl.OP_NO_RENEGOTIATION, ssl.OP_NO_COMPRESSION, ssl.OP_SINGLE_ECDH_USE,
            ssl.OP_CIPHER_SERVER_PREFERENCE,
        ):  # fmt: skip
            # Some are 0 where OpenSSL does nothing else any more.
            assert context.options & wanted == wanted
        assert not context.options & ssl.OP_IGNORE_UNEXPECTED_EOF
        assert context.security_level >= ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).security_level

    def test_ciphers_of_a_server_under_tls_1_2(self, a: Files, client: Client) -> None:
        tls = server(a)
        old = [one["name"] for one in tls.context.get_ciphers() if one["protocol"] == "TLSv1.2"]
        assert old
        for cipher in old:
            assert cipher.startswith("ECDHE-")
            assert "GCM" in cipher or "CHACHA20" in cipher
        weak = client(newest="TLSv1_2", set_ciphers=["ECDHE-ECDSA-AES128-SHA256"])
        with pytest.raises(ssl.SSLError, match="NO_SHARED_CIPHER"):
            Pair(tls.context, weak).handshake()

    def test_the_servers_order_of_ciphers(self, a: Files, client: Client) -> None:
        order = "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES256-GCM-SHA384"
        other_way = ":".join(reversed(order.split(":")))
        picky = client(newest="TLSv1_2", set_ciphers=[other_way])
        assert Pair(server(a, ciphers=order).context, picky).handshake().cipher == order[:29]

    def test_a_truncation_is_told_apart_from_an_end(self, a: Files, client: Client) -> None:
        pair = Pair(server(a).context, client()).handshake()
        pair.to_server.write_eof()
        with pytest.raises(ssl.SSLEOFError):
            pair.server.read()
        pair = Pair(server(a).context, client()).handshake()
        with pytest.raises(ssl.SSLWantReadError):
            pair.client.unwrap()
        assert pair.server.read() == b""


class TestClient:
    def connect(self, tls: Tls, files: Files, name: str = "a.example.com") -> Pair:
        return Pair(server(files).context, tls.context, tls.server_hostname or name).handshake()

    def test_it_verifies_the_certificate_and_the_name(
        self, store: Store, a: Files, b: Files
    ) -> None:
        tls = build_tls({"ca_certs": store.ca_file}, server_side=False)
        self.connect(tls, a)
        with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
            self.connect(tls, b)
        stranger = store.leaf("a.example.com", ca="other_ca")
        with pytest.raises(ssl.SSLCertVerificationError, match="unable to get local issuer"):
            self.connect(tls, stranger)
        assert (tls.server_side, tls.certificates, tls.files) == (False, (), (store.ca_file,))

    def test_it_trusts_whom_the_system_trusts(
        self, store: Store, a: Files, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with pytest.raises(ssl.SSLCertVerificationError):
            self.connect(build_tls({}, server_side=False), a)
        monkeypatch.setenv("SSL_CERT_FILE", store.ca_file)
        self.connect(build_tls({}, server_side=False), a)
        # And nobody else where it is told whom.
        with pytest.raises(ssl.SSLCertVerificationError):
            self.connect(build_tls({"ca_certs": store.other_ca_file}, server_side=False), a)

    def test_another_name_than_that_of_the_host(self, store: Store, a: Files) -> None:
        tls = build_tls(
            {"ca_certs": store.ca_file, "server_hostname": "a.example.com."}, server_side=False
        )
        assert tls.server_hostname == "a.example.com"
        self.connect(tls, a, "192.0.2.1")

    def test_without_the_name(self, store: Store, b: Files) -> None:
        options = {"ca_certs": store.ca_file, "check_hostname": False}
        tls = build_tls(options, server_side=False)
        self.connect(tls, b)
        stranger = store.leaf("a.example.com", ca="other_ca")
        with pytest.raises(ssl.SSLCertVerificationError):
            self.connect(tls, stranger)

    def test_without_any_verification(self, store: Store) -> None:
        tls = build_tls({"cert_reqs": "none"}, server_side=False)
        self.connect(tls, store.leaf("x.example", ca="other_ca"))

    def test_what_a_client_chooses(self, store: Store, a: Files) -> None:
        options = {
            "ca_certs": store.ca_file, "ssl_version": "TLSv1.2", "alpn": ["x", "h2"],
            "ciphers": "ECDHE-ECDSA-AES256-GCM-SHA384",
        }  # fmt: skip
        context = build_tls(options, server_side=False).context
        pair = Pair(server(a, alpn=["h2"]).context, context).handshake()
        assert pair.cipher == "ECDHE-ECDSA-AES256-GCM-SHA384"
        assert pair.client.version() == "TLSv1.2"
        assert pair.client.selected_alpn_protocol() == "h2"


class TestClientCertificates:
    @pytest.fixture(params=["file", "folder"])
    def ca_certs(self, request: pytest.FixtureRequest, store: Store, tmp_path: Path) -> str:
        if request.param == "file":
            return store.ca_file
        # A name that `openssl rehash` would never make, among files that are no certificates.
        (tmp_path / "Our own.cer").write_bytes(store.ca.cert_pem.bytes())
        (tmp_path / "README").write_text("who is who")
        (tmp_path / "folder").mkdir()
        (tmp_path / "dangling").symlink_to("nowhere")
        os.mkfifo(tmp_path / "fifo")
        return str(tmp_path)

    def connect(self, tls: Tls, store: Store, certificate: Files | None, newest: str) -> Pair:
        options = {"ca_certs": store.ca_file, "check_hostname": False}
        if certificate is not None:
            options |= {"certfile": certificate.crt, "keyfile": certificate.key}
        context = build_tls(options, server_side=False).context
        context.maximum_version = ssl.TLSVersion[newest]
        return Pair(tls.context, context).handshake()

    @BOTH_VERSIONS
    def test_required(self, store: Store, a: Files, ca_certs: str, newest: str) -> None:
        tls = server(a, ca_certs=ca_certs, cert_reqs="required")
        pair = self.connect(tls, store, store.leaf("somebody"), newest)
        assert b"somebody" in (pair.server.getpeercert(binary_form=True) or b"")
        with pytest.raises(ssl.SSLError, match="CERTIFICATE_REQUIRED|DID_NOT_RETURN"):
            self.connect(tls, store, None, newest)
        with pytest.raises(ssl.SSLCertVerificationError):
            self.connect(tls, store, store.leaf("somebody", ca="other_ca"), newest)

    @BOTH_VERSIONS
    def test_optional(self, store: Store, a: Files, ca_certs: str, newest: str) -> None:
        tls = server(a, ca_certs=ca_certs, cert_reqs="optional")
        assert tls.warnings == ()
        assert self.connect(tls, store, store.leaf("somebody"), newest).server.getpeercert()
        assert not self.connect(tls, store, None, newest).server.getpeercert()
        with pytest.raises(ssl.SSLCertVerificationError):
            self.connect(tls, store, store.leaf("somebody", ca="other_ca"), newest)

    @BOTH_VERSIONS
    def test_what_an_entry_of_sni_changes_is_not_this(
        self, store: Store, a: Files, b: Files, newest: str
    ) -> None:
        tls = server(
            b,
            sni={"a.example.com": {"certfile": a.pem}},
            ca_certs=store.ca_file,
            cert_reqs="required",
        )
        pair = self.connect(tls, store, store.leaf("somebody"), newest)
        assert pair.names == ("a.example.com",)
        assert pair.server.getpeercert()
        with pytest.raises(ssl.SSLError, match="CERTIFICATE_REQUIRED|DID_NOT_RETURN"):
            self.connect(tls, store, None, newest)
        with pytest.raises(ssl.SSLCertVerificationError):
            self.connect(tls, store, store.leaf("somebody", ca="other_ca"), newest)

    def test_a_folder_and_its_files_are_watched(
        self, store: Store, a: Files, tmp_path: Path
    ) -> None:
        for name in ("2.pem", "1.pem"):
            (tmp_path / name).write_bytes(store.ca.cert_pem.bytes())
        (tmp_path / "other").touch()
        tls = server(a, ca_certs=tmp_path, cert_reqs="optional")
        assert tls.files == (
            str(tmp_path), str(tmp_path / "1.pem"), str(tmp_path / "2.pem"), a.crt, a.key,
        )  # fmt: skip

    def test_a_file_in_a_folder_that_cannot_be_read_is_left_out_and_said_so(
        self, store: Store, a: Files, tmp_path: Path
    ) -> None:
        (tmp_path / "ca.pem").write_bytes(store.ca.cert_pem.bytes())
        with (tmp_path / "huge").open("wb") as huge:
            huge.truncate(1 << 30)
        tls = server(a, ca_certs=tmp_path, cert_reqs="optional")
        (warning,) = tls.warnings
        assert warning.startswith(f"ca_certs: {str(tmp_path / 'huge')!r} is larger than")
        assert warning.endswith("it was left out")


@pytest.fixture(scope="module")
def named(store: Store, a: Files, b: Files) -> Tls:
    star = store.leaf("*.example.org")
    exact = store.leaf("exact.example.org")
    book = store.leaf("xn--bcher-kva.example")
    return server(
        a,
        sni={
            "B.Example.com.": {"certfile": b.crt, "keyfile": b.enc, "password": PASSPHRASE},
            "*.example.org": {"certfile": star.pem},
            "exact.example.org": {"certfile": exact.pem},
            "bücher.example": {"certfile": book.pem},
        },
    )


class TestServerNames:
    @pytest.mark.parametrize(
        ("asked", "got"),
        [
            (None, "a.example.com"),
            ("a.example.com", "a.example.com"),
            ("unknown.example", "a.example.com"),
            ("b.example.com", "b.example.com"),
            ("B.EXAMPLE.com", "b.example.com"),
            ("b.example.com.", "b.example.com"),
            ("x.example.org", "*.example.org"),
            ("X.example.org.", "*.example.org"),
            ("exact.example.org", "exact.example.org"),
            ("x.y.example.org", "a.example.com"),
            ("example.org", "a.example.com"),
            ("org", "a.example.com"),
            ("bücher.example", "xn--bcher-kva.example"),
            ("xn--bcher-kva.example", "xn--bcher-kva.example"),
        ],
    )
    @BOTH_VERSIONS
    def test_which_certificate_a_client_gets(
        self, named: Tls, client: Client, asked: str | None, got: str, newest: str
    ) -> None:
        pair = Pair(named.context, client(newest=newest), asked).handshake()
        assert pair.names == (got,)
        sent = asked and asked.encode("idna").decode()
        assert pair.server.server_name == sent  # type: ignore[attr-defined]

    def test_all_certificates_are_known(self, named: Tls, a: Files, b: Files) -> None:
        assert [one.names[0] for one in named.certificates] == [
            "a.example.com", "b.example.com", "*.example.org", "exact.example.org",
            "xn--bcher-kva.example",
        ]  # fmt: skip
        assert named.files[:4] == (a.crt, a.key, b.crt, b.enc)
        assert len(named.files) == 7

    @pytest.mark.parametrize("asked", ["a.example.com", "b.example.com"])
    @BOTH_VERSIONS
    def test_everything_else_is_the_same(
        self, a: Files, b: Files, client: Client, asked: str, newest: str
    ) -> None:
        tls = server(
            a,
            sni={"b.example.com": {"certfile": b.pem}},
            alpn=["h2", "x"],
            ciphers="ECDHE-ECDSA-AES128-GCM-SHA256",
            session_tickets=False,
        )
        peer = client(newest=newest, set_alpn_protocols=[["x"]])
        pair = Pair(tls.context, peer, asked).handshake()
        assert pair.names == (asked,)
        assert pair.server.selected_alpn_protocol() == "x"
        assert pair.client.session is None or not pair.client.session.has_ticket
        if newest == "TLSv1_2":
            assert pair.cipher == "ECDHE-ECDSA-AES128-GCM-SHA256"
        for context in (tls.context, pair.server.context):
            assert context.options == tls.context.options
            assert context.minimum_version == tls.context.minimum_version
            assert context.security_level == tls.context.security_level

    def test_the_oldest_version_too(self, a: Files, b: Files, client: Client) -> None:
        tls = server(a, sni={"b.example.com": {"certfile": b.pem}}, minimum_version="TLSv1.3")
        assert Pair(tls.context, client(), "b.example.com").handshake().names == ("b.example.com",)
        with pytest.raises(ssl.SSLError, match="UNSUPPORTED_PROTOCOL"):
            Pair(tls.context, client(newest="TLSv1_2"), "b.example.com").handshake()

    @BOTH_VERSIONS
    def test_sessions_are_resumed(self, named: Tls, client: Client, newest: str) -> None:
        peer = client(newest=newest)
        first = Pair(named.context, peer, "b.example.com").handshake()
        again = Pair(named.context, peer, "b.example.com", first.client.session).handshake()
        assert again.client.session_reused
        assert again.server.server_name == "b.example.com"  # type: ignore[attr-defined]

    def test_a_second_first_message(self, a: Files, b: Files, client: Client) -> None:
        # The client guessed a curve that the server does not have, so its message comes twice.
        tls = server(a, sni={"b.example.com": {"certfile": b.pem}})
        tls.context.set_ecdh_curve("secp384r1")
        pair = Pair(tls.context, client(), "b.example.com").handshake()
        assert pair.names == ("b.example.com",)

    @pytest.mark.parametrize("several", [True, False])
    def test_contexts_end_with_their_last_user(self, a: Files, b: Files, several: bool) -> None:
        # Where certificates change often, what only the garbage collector frees is a leak.
        options = {"sni": {"b.example.com": {"certfile": b.pem}}} if several else {}
        tls = server(a, **options)
        alive = weakref.ref(tls.context)
        gc.disable()
        try:
            del tls
            assert alive() is None
        finally:
            gc.enable()


class FirstMessages:
    """A client's first messages, with any bytes for a name in them."""

    def __init__(self) -> None:
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)

    def __call__(self, name: bytes) -> bytes:
        out = ssl.MemoryBIO()
        # Labels of one letter: more than 63 in a row would be no host name.
        placeholder = ("x." * len(name))[: len(name)].removesuffix(".").ljust(len(name), "x")
        end = self.context.wrap_bio(ssl.MemoryBIO(), out, server_hostname=placeholder)
        with pytest.raises(ssl.SSLWantReadError):
            end.do_handshake()
        message = out.read()
        assert message.count(placeholder.encode()) == 1
        return message.replace(placeholder.encode(), name)


@pytest.fixture(scope="module")
def starred(a: Files, b: Files) -> Tls:
    return server(a, sni={"*.b": {"certfile": b.pem}, "b": {"certfile": b.pem}})


class TestStrangeNames:
    @given(st.text(st.characters(min_codepoint=1, max_codepoint=127), min_size=9, max_size=120))
    def test_any_ascii(self, starred: Tls, name: str) -> None:
        self.say(starred, name)

    @pytest.mark.parametrize("name", ["........b", "*.......b", "aaaaaaaa\n", "a.b......"])
    def test_dots_and_stars(self, starred: Tls, name: str) -> None:
        self.say(starred, name)

    def say(self, tls: Tls, name: str) -> ssl.SSLObject:
        """A server's end to which a client has said the name."""
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        end = tls.context.wrap_bio(incoming, outgoing, server_side=True)
        incoming.write(FirstMessages()(name.encode()))
        with pytest.raises(ssl.SSLWantReadError):
            end.do_handshake()
        assert end.server_name == name  # type: ignore[attr-defined]
        return end

    def test_nothing_is_not_the_one_label_of_a_star(self, named: Tls) -> None:
        end = self.say(named, ".example.org")
        assert end.context is named.context
        assert self.say(named, "x.example.org").context is not named.context

    def test_what_is_not_ascii_never_comes_to_us(
        self, starred: Tls, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # Python decodes the name itself, and tells of the failure only where nobody can catch it:
        # its ssl module, _servername_callback. The handshake fails.
        told: list[Any] = []
        monkeypatch.setattr(sys, "unraisablehook", told.append)
        incoming = ssl.MemoryBIO()
        end = starred.context.wrap_bio(incoming, ssl.MemoryBIO(), server_side=True)
        incoming.write(FirstMessages()(b"\xff\xfe\x80.exam"))
        with pytest.raises(ssl.SSLError):
            end.do_handshake()
        assert [type(one.exc_value) for one in told] == [UnicodeDecodeError]
        told.clear()


class TestSessionTickets:
    @pytest.mark.parametrize(("given", "number"), [(True, 2), (1, 1), (5, 5), (0, 0), (False, 0)])
    def test_how_many_under_1_3(
        self, a: Files, client: Client, given: bool | int, number: int
    ) -> None:
        tls = server(a, session_tickets=given)
        assert tls.context.num_tickets == number
        session = Pair(tls.context, client()).handshake().client.session
        assert (session is not None and session.has_ticket) == bool(number)

    @pytest.mark.parametrize("given", [True, 3, False, 0])
    def test_whether_under_1_2(self, a: Files, client: Client, given: bool | int) -> None:
        tls = server(a, session_tickets=given)
        session = Pair(tls.context, client(newest="TLSv1_2")).handshake().client.session
        assert session is not None
        assert session.has_ticket == bool(given)

    @BOTH_VERSIONS
    def test_a_session_is_resumed(self, a: Files, client: Client, newest: str) -> None:
        tls, peer = server(a), client(newest=newest)
        first = Pair(tls.context, peer).handshake()
        again = Pair(tls.context, peer, session=first.client.session).handshake()
        assert again.client.session_reused


class TestVersionsAndCiphers:
    def test_exactly_1_2(self, a: Files, client: Client) -> None:
        tls = server(a, ssl_version=ssl.PROTOCOL_TLSv1_2)
        assert Pair(tls.context, client()).handshake().client.version() == "TLSv1.2"
        assert tls.warnings[0].startswith("ssl_version: ")

    def test_1_3_only(self, a: Files, client: Client) -> None:
        tls = server(a, minimum_version="TLSv1.3")
        assert Pair(tls.context, client()).handshake().client.version() == "TLSv1.3"
        with pytest.raises(ssl.SSLError, match="UNSUPPORTED_PROTOCOL"):
            Pair(tls.context, client(newest="TLSv1_2")).handshake()

    def test_ciphers_are_of_1_2(self, a: Files, client: Client) -> None:
        tls = server(a, ciphers="ECDHE-ECDSA-CHACHA20-POLY1305")
        old = Pair(tls.context, client(newest="TLSv1_2")).handshake()
        assert old.cipher == "ECDHE-ECDSA-CHACHA20-POLY1305"
        assert Pair(tls.context, client()).handshake().client.version() == "TLSv1.3"

    @pytest.mark.parametrize("ciphers", ["NO-SUCH", "TLS_AES_256_GCM_SHA384", "", "a\0b", "\udc80"])
    def test_ciphers_that_select_nothing(self, a: Files, ciphers: str) -> None:
        for side in (True, False):
            (fault,) = refusal({"certfile": a.pem, "ciphers": ciphers}, server_side=side)
            assert fault.startswith(f"ciphers: {ciphers!r} selects none of OpenSSL's ciphers")

    def test_they_are_told_once_however_many_contexts_there_are(self, a: Files) -> None:
        sni = {"a.example": {"certfile": a.pem}, "b.example": {"certfile": a.pem}}
        faults = refusal({"certfile": a.pem, "sni": sni, "ciphers": "X", "ca_certs": "/nowhere"})
        assert [fault.partition(":")[0] for fault in faults] == ["ciphers", "ca_certs"]

    def test_alpn_chooses_in_the_servers_order(self, a: Files, client: Client) -> None:
        tls = server(a, alpn=["one", "two"])
        peer = client(set_alpn_protocols=[["two", "one"]])
        assert Pair(tls.context, peer).handshake().server.selected_alpn_protocol() == "one"
        stranger = client(set_alpn_protocols=[["three"]])
        assert Pair(tls.context, stranger).handshake().server.selected_alpn_protocol() is None


class TestOwnContext:
    def own(self, files: Files) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(files.crt, files.key)
        return context

    def test_it_is_used_as_it_is_and_records_the_name(self, a: Files, client: Client) -> None:
        context = self.own(a)
        options = context.options
        tls = build_tls({"context": context}, server_side=True)
        assert tls.context is context
        assert context.options == options
        assert (tls.certificates, tls.files, tls.warnings) == ((), (), ())
        pair = Pair(context, client(), "x.example").handshake()
        assert pair.server.server_name == "x.example"  # type: ignore[attr-defined]

    def test_its_own_callback_is_left_alone(self, a: Files, client: Client) -> None:
        context, asked = self.own(a), []
        context.sni_callback = lambda end, name, context: asked.append(name)
        build_tls({"context": context}, server_side=True)
        pair = Pair(context, client(), "x.example").handshake()
        assert asked == ["x.example"]
        assert not hasattr(pair.server, "server_name")

    def test_a_function_is_called_each_time(self, a: Files) -> None:
        made: list[ssl.SSLContext] = []

        def make() -> ssl.SSLContext:
            made.append(self.own(a))
            return made[-1]

        built = [build_tls({"context": make}, server_side=True).context for _ in range(2)]
        assert built == made
        assert built[0] is not built[1]

    def test_a_client_with_its_own(self, store: Store, a: Files) -> None:
        context = ssl.create_default_context(cafile=store.ca_file)
        tls = build_tls({"context": context, "server_hostname": "a.example.com"}, server_side=False)
        assert tls.context is context
        assert context.sni_callback is None
        Pair(server(a).context, context, tls.server_hostname).handshake()

    def test_a_function_that_raises(self) -> None:
        def fail() -> ssl.SSLContext:
            raise LookupError("no vault")

        with pytest.raises(TlsError) as caught:
            build_tls({"context": fail}, server_side=True)
        assert caught.value.faults == ("context: the function raised LookupError: no vault",)
        assert isinstance(caught.value.__cause__, LookupError)

    def test_a_function_that_is_interrupted(self) -> None:
        def interrupt() -> ssl.SSLContext:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            build_tls({"context": interrupt}, server_side=True)

    def test_a_function_that_makes_something_else(self) -> None:
        (fault,) = refusal({"context": lambda: PASSPHRASE.encode()})
        assert fault == "context: expected an ssl.SSLContext, got a bytes"
        (fault,) = refusal({"context": lambda: None})
        assert fault == "context: expected an ssl.SSLContext, got None"

    def test_one_for_the_other_side(self) -> None:
        for context in (
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), ssl.create_default_context,
        ):  # fmt: skip
            (fault,) = refusal({"context": context})
            assert fault.startswith("context: it is for the other side (PROTOCOL_TLS_CLIENT)")
        other = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        (fault,) = refusal({"context": other}, server_side=False)
        assert fault.startswith("context: it is for the other side (PROTOCOL_TLS_SERVER)")

    def test_what_is_none_is_told_once(self) -> None:
        (fault,) = refusal({"context": 5})
        assert fault.startswith("context: expected an ssl.SSLContext or a function")

    def test_a_faulty_one_is_not_touched(self, a: Files) -> None:
        context = self.own(a)
        refusal({"context": context, "alpn": ["x"]})
        assert context.sni_callback is None


class TestPassphrases:
    @pytest.mark.parametrize("kind", ["enc", "old"])
    @pytest.mark.parametrize(
        "password", [PASSPHRASE, PASSPHRASE.encode(), bytearray(PASSPHRASE.encode())]
    )
    def test_given(self, a: Files, client: Client, kind: str, password: Any) -> None:
        tls = server(a, keyfile=getattr(a, kind), password=password)
        Pair(tls.context, client()).handshake()

    def test_by_a_function_which_is_asked_once(self, a: Files) -> None:
        asked: list[int] = []

        def ask() -> str:
            asked.append(1)
            return PASSPHRASE

        for kind in ("enc", "old"):
            server(a, keyfile=getattr(a, kind), password=ask)
        assert len(asked) == 2

    def test_a_function_is_not_asked_for_a_key_that_needs_none(self, a: Files) -> None:
        def never() -> str:
            raise AssertionError

        server(a, password=never)

    def test_one_that_is_not_needed(self, a: Files) -> None:
        server(a, password=PASSPHRASE)

    @pytest.mark.parametrize("kind", ["enc", "old"])
    def test_missing(self, a: Files, kind: str) -> None:
        key = getattr(a, kind)
        assert refusal({"certfile": a.crt, "keyfile": key}) == (
            f"password: missing; the key in {key!r} is encrypted, so give what opens it",
        )

    @pytest.mark.parametrize("kind", ["enc", "old"])
    @pytest.mark.parametrize("password", ["wrong", b"", "x" * 1024, "ü\ud800", lambda: "wrong"])
    def test_wrong(self, a: Files, kind: str, password: Any) -> None:
        key = getattr(a, kind)
        assert refusal({"certfile": a.crt, "keyfile": key, "password": password}) == (
            f"password: it does not open the key in {key!r}",
        )

    @pytest.mark.parametrize(
        ("answer", "why"),
        [
            (None, "expected a str or bytes, got None"),
            (5, "expected a str or bytes, got an int"),
            ([PASSPHRASE], "expected a str or bytes, got a list"),
            (PASSPHRASE * 100, "expected at most 1024 bytes, got 1300"),
        ],
    )
    def test_a_function_that_answers_nonsense(self, a: Files, answer: Any, why: str) -> None:
        options = {"certfile": a.crt, "keyfile": a.enc, "password": lambda: answer}
        assert refusal(options) == (f"password: {why}",)

    @pytest.mark.parametrize("kind", ["enc", "old"])
    def test_a_function_that_raises(self, a: Files, kind: str) -> None:
        def fail() -> str:
            raise ValueError(PASSPHRASE)

        options = {"certfile": a.crt, "keyfile": getattr(a, kind), "password": fail}
        assert refusal(options) == ("password: the function raised ValueError",)

    def test_a_function_that_is_interrupted(self, a: Files) -> None:
        def interrupt() -> str:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            server(a, keyfile=a.enc, password=interrupt)

    def test_in_an_entry_of_sni(self, a: Files, b: Files) -> None:
        entry = {"certfile": b.crt, "keyfile": b.enc}
        assert refusal({"certfile": a.pem, "sni": {"b.example": entry}}) == (
            (
                f"sni['b.example'].password: missing; the key in {b.enc!r} is encrypted, "
                "so give what opens it"
            ),
        )

    def test_no_traceback_shows_it(self, a: Files) -> None:
        options = SslOptions(certfile=a.crt, keyfile=a.enc, password=PASSPHRASE + "!")
        with pytest.raises(TlsError) as caught:
            build_tls(options, server_side=True)
        shown = caught.getrepr(showlocals=True, style="long")
        # What the test itself says of it stands in its own lines.
        ours = str(shown).partition("def build_tls")[2]
        assert "password: it does not open" in ours
        assert PASSPHRASE not in ours

    def test_the_terminal_is_never_asked(self, a: Files) -> None:
        program = (
            "import fcntl, sys, termios\n"
            # From here on /dev/tty is the one on which the test listens.
            "fcntl.ioctl(0, termios.TIOCSCTTY, 0)\n"
            "open('/dev/tty').close()\n"
            "from ginsfsm.net.tls import TlsError, build_tls\n"
            "for key in sys.argv[2:]:\n"
            "    try: build_tls({'certfile': sys.argv[1], 'keyfile': key}, server_side=True)\n"
            "    except TlsError as error: print(error)\n"
        )
        terminal, theirs = pty.openpty()
        try:
            ended = subprocess.run(
                [sys.executable, "-c", program, a.crt, a.enc, a.old],
                stdin=theirs, capture_output=True, text=True, timeout=30, start_new_session=True,
            )  # fmt: skip
            assert ended.stderr == ""
            assert ended.stdout.count("password: missing") == 2
            assert not select.select([terminal], [], [], 0)[0], os.read(terminal, 100)
        finally:
            os.close(terminal)
            os.close(theirs)


@pytest.fixture(scope="module")
def weak(tmp_path_factory: pytest.TempPathFactory) -> Path:
    key = rsa.generate_private_key(65537, 1024)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "weak")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(7)
        .not_valid_before(EARLIER)
        .not_valid_after(LATER)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("weak") / "weak.pem"
    path.write_bytes(
        certificate.public_bytes(Encoding.PEM)
        + key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )
    return path


class TestFaultsInFiles:
    def test_missing(self, a: Files) -> None:
        assert refusal({"certfile": "x.crt", "keyfile": "x.key", "ca_certs": "x.ca"}) == (
            "ca_certs: there is no file 'x.ca'",
            "certfile: there is no file 'x.crt'",
            "keyfile: there is no file 'x.key'",
        )

    def test_folders(self, tmp_path: Path) -> None:
        folder = str(tmp_path)
        assert refusal({"certfile": folder, "keyfile": folder}) == (
            f"certfile: {folder!r} is a folder; give the path of a file",
            f"keyfile: {folder!r} is a folder; give the path of a file",
        )

    def test_pipes_which_would_hang(self, a: Files, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "fifo")
        fifo = str(tmp_path / "fifo")
        faults = refusal({"certfile": fifo, "keyfile": fifo, "ca_certs": fifo})
        assert [fault.partition(":")[0] for fault in faults] == ["ca_certs", "certfile", "keyfile"]
        assert all("is no regular file" in fault for fault in faults)
        (fault,) = refusal({"certfile": a.crt, "keyfile": "/dev/tty"})
        assert fault.startswith("keyfile: '/dev/tty' is no regular file")

    def test_what_may_not_be_read(self, a: Files, tmp_path: Path) -> None:
        closed = tmp_path / "closed.pem"
        closed.write_bytes(Path(a.pem).read_bytes())
        closed.chmod(0)
        options = dict.fromkeys(("certfile", "keyfile", "ca_certs"), str(closed))
        # What is imported at its first use may be the other user's as well.
        server(a)
        with unprivileged():
            faults = refusal(options)
        assert [fault.partition(":")[0] for fault in faults] == ["ca_certs", "certfile", "keyfile"]
        assert all("permission denied" in fault for fault in faults)

    def test_a_folder_that_may_not_be_read(self, a: Files, tmp_path: Path) -> None:
        server(a)
        closed = tmp_path / "closed"
        closed.mkdir()
        closed.chmod(0)
        try:
            with unprivileged():
                faults = refusal({"certfile": a.pem, "ca_certs": str(closed)})
        finally:
            closed.chmod(0o700)
        assert any("cannot be read: " in one for one in faults if one.startswith("ca_certs"))

    def test_the_certificate_where_the_key_should_be(self, a: Files) -> None:
        assert refusal({"certfile": a.crt, "keyfile": a.crt}) == (
            f"keyfile: {a.crt!r} holds no private key in PEM form",
        )
        assert refusal({"certfile": a.key}) == (
            f"certfile: {a.key!r} holds a private key, but no certificate",
        )
        assert refusal({"certfile": a.key, "keyfile": a.crt}) == (
            f"certfile: {a.key!r} holds a private key, but no certificate",
            f"keyfile: {a.crt!r} holds no private key in PEM form",
        )

    def test_no_key(self, a: Files) -> None:
        assert refusal({"certfile": a.crt}) == (
            f"certfile: {a.crt!r} holds no private key; give the file of the key as keyfile",
        )

    def test_a_key_that_does_not_match(self, a: Files, b: Files) -> None:
        assert refusal({"certfile": a.crt, "keyfile": b.key}) == (
            f"keyfile: the key in {b.key!r} does not match the certificate in {a.crt!r}",
        )

    def test_a_key_of_another_kind(self, a: Files, weak: Path) -> None:
        (fault,) = refusal({"certfile": a.crt, "keyfile": str(weak)})
        assert fault.startswith(f"keyfile: the key in {str(weak)!r} does not match the certificate")

    def test_a_chain_in_the_wrong_order(self, store: Store, a: Files, tmp_path: Path) -> None:
        chain = tmp_path / "chain.pem"
        chain.write_bytes(store.ca.cert_pem.bytes() + Path(a.pem).read_bytes())
        assert refusal({"certfile": str(chain)}) == (
            (
                f"certfile: the key in {str(chain)!r} does not match the certificate in "
                f"{str(chain)!r}; the key's own certificate must be the first one there"
            ),
        )

    def test_a_key_that_is_too_short(self, weak: Path) -> None:
        assert refusal({"certfile": str(weak)}) == (
            (
                f"certfile: {str(weak)!r} is refused: its key is too short to be secure; an RSA "
                "key needs 2048 bits"
            ),
        )

    @pytest.mark.parametrize("kind", ["crt", "key"])
    def test_damaged(self, a: Files, tmp_path: Path, kind: str) -> None:
        damaged = tmp_path / f"x.{kind}"
        damaged.write_bytes(Path(getattr(a, kind)).read_bytes().replace(b"\nM", b"\nZ"))
        options = {"certfile": a.crt, "keyfile": a.key, f"{kind}file": str(damaged)}
        options["certfile"] = options.pop("crtfile", options["certfile"])
        (fault,) = refusal(options)
        assert fault.startswith({"crt": "certfile: ", "key": "keyfile: "}[kind])
        assert "damaged" in fault
        assert repr(str(damaged)) in fault

    def test_a_damaged_chain(self, store: Store, a: Files, tmp_path: Path) -> None:
        chain = tmp_path / "chain.pem"
        broken = store.ca.cert_pem.bytes().replace(b"\nM", b"\nZ")
        chain.write_bytes(Path(a.pem).read_bytes() + broken)
        (fault,) = refusal({"certfile": str(chain)})
        assert fault.startswith(f"certfile: OpenSSL cannot load {str(chain)!r}")

    def test_a_file_that_goes_away_meanwhile(
        self, a: Files, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def gone(*args: Any) -> None:
            raise FileNotFoundError(2, "No such file or directory")

        monkeypatch.setattr(ssl.SSLContext, "load_cert_chain", gone)
        (fault,) = refusal({"certfile": a.pem})
        assert fault.startswith(f"certfile: OpenSSL cannot load {a.pem!r}")
        assert fault.endswith("([Errno 2] No such file or directory)")

    def test_authorities_that_are_none(self, a: Files, tmp_path: Path) -> None:
        empty = tmp_path / "empty.pem"
        empty.touch()
        for path in (str(empty), a.key):
            assert refusal({"certfile": a.pem, "ca_certs": path}) == (
                f"ca_certs: {path!r} holds no certificate in PEM form",
            )
        assert refusal({"certfile": a.pem, "ca_certs": str(tmp_path)}) == (
            f"ca_certs: no file in {str(tmp_path)!r} holds a certificate in PEM form",
        )
        assert refusal({"ca_certs": str(tmp_path)}, server_side=False) == (
            f"ca_certs: no file in {str(tmp_path)!r} holds a certificate in PEM form",
        )

    def test_damaged_authorities(self, store: Store, a: Files, tmp_path: Path) -> None:
        damaged = tmp_path / "ca.pem"
        damaged.write_bytes(store.ca.cert_pem.bytes().replace(b"\nM", b"\nZ"))
        for path in (damaged, tmp_path):
            assert refusal({"certfile": a.pem, "ca_certs": str(path)}) == (
                f"ca_certs: a certificate in {str(damaged)!r} is damaged",
            )

    def test_pasted_keys_are_not_shown(self, a: Files) -> None:
        text = Path(a.key).read_text()
        for option in ("certfile", "keyfile", "ca_certs"):
            faults = refusal({"certfile": a.crt, "keyfile": a.key, option: text})
            assert faults == (
                f"{option}: expected the path of a file, got what looks like the text of a file",
            )

    def test_faults_of_the_options_and_of_the_files_together(self, a: Files, b: Files) -> None:
        faults = refusal(
            {
                "certfile": "x.crt",
                "keyfile": a.crt,
                "password": 5,
                "pasword": PASSPHRASE,
                "ca_certs": "x.ca",
                "cert_reqs": "always",
                "ciphers": "X",
                "alpn": "h2",
                "sni": {"b.example": {"certfile": a.crt, "keyfile": b.key}, "": {}},
            }
        )
        assert [fault.partition(": ")[0] for fault in faults] == [
            "pasword", "cert_reqs", "password", "sni['']", "alpn", "ciphers", "ca_certs",
            "certfile", "keyfile", "sni['b.example'].keyfile",
        ]  # fmt: skip

    def test_files_are_looked_for_where_an_option_is_faulty(self, a: Files) -> None:
        missing = {"certfile": "x.crt", "keyfile": "x.key"}
        assert all_faults({**missing, "alpn": "h2"}, server_side=True) == [
            (
                "alpn: expected a list of protocols, such as ['h2', 'http/1.1'], got 'h2' (str); "
                "write ['h2']"
            ),
            "certfile: there is no file 'x.crt'",
            "keyfile: there is no file 'x.key'",
        ]
        (fault,) = all_faults({"certfile": a.crt, "keyfile": a.key, "alpn": []}, server_side=True)
        assert fault.startswith("alpn: ")
        # Else they are read once, by `build_tls`.
        assert all_faults(missing, server_side=True) == []

    def test_an_empty_keyfile_is_none(self, a: Files) -> None:
        combined = {"certfile": a.pem, "keyfile": ""}
        assert build_tls(combined, server_side=True).files == (a.pem,)
        assert refusal({"certfile": "x.crt", "keyfile": ""}) == (
            "certfile: there is no file 'x.crt'",
        )
        (fault,) = refusal({"certfile": a.crt, "keyfile": ""})
        assert fault.endswith("holds no private key; give the file of the key as keyfile")

    def test_how_the_error_reads(self) -> None:
        assert str(TlsError(("a: x",))) == "a: x"
        assert str(TlsError(("a: x", "b: y"))) == "2 faults\n  a: x\n  b: y"

    def test_nothing_is_left_open(self, a: Files, tmp_path: Path) -> None:
        before = os.listdir("/dev/fd")
        refusal({"certfile": a.crt, "keyfile": a.enc, "ca_certs": str(tmp_path)})
        assert os.listdir("/dev/fd") == before


class TestWarnings:
    def test_an_expired_certificate(self, store: Store, client: Client) -> None:
        begin, end = EARLIER, datetime(2026, 1, 2, 3, 4, tzinfo=UTC)
        files = store.leaf("a.example.com", begin=end - timedelta(days=9), end=end)
        tls = server(files)
        assert tls.warnings == (
            f"certfile: the certificate in {files.crt!r} is expired since 2026-01-02 03:04 UTC",
        )
        assert tls.certificates[0].days_left() < 0
        # It serves all the same, whoever accepts it.
        context = build_tls({"cert_reqs": "none"}, server_side=False).context
        Pair(tls.context, context).handshake()
        assert begin < datetime.now(UTC)

    def test_one_that_is_not_yet_valid(self, store: Store, a: Files) -> None:
        begin = datetime(2060, 5, 6, 7, 8, tzinfo=UTC)
        files = store.leaf("a.example.com", begin=begin, end=begin + timedelta(days=9))
        tls = server(a, sni={"b.example": {"certfile": files.pem}})
        assert tls.warnings == (
            (
                f"sni['b.example'].certfile: the certificate in {files.pem!r} is not valid before "
                "2060-05-06 07:08 UTC"
            ),
        )

    def test_that_of_a_client(self, store: Store) -> None:
        files = store.leaf(
            "a.example.com", begin=EARLIER - timedelta(days=9), end=EARLIER - timedelta(days=1)
        )
        tls = build_tls({"certfile": files.pem}, server_side=False)
        assert "is expired since" in tls.warnings[0]


def test_a_repr_shows_no_secret(a: Files, b: Files) -> None:
    sni = {"b.example": {"certfile": b.crt, "keyfile": b.enc, "password": PASSPHRASE}}
    tls = server(a, keyfile=a.enc, password=PASSPHRASE, sni=sni)
    assert PASSPHRASE not in repr(tls)
    assert "MIG" not in repr(tls)
