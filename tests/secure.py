"""What the tests of TLS share: a peer whose TLS the test moves by hand, and a pair with it.

`TlsPeer` is a raw socket with Python's own `SSLObject` beside it. The two are apart on purpose: a
test gets the bytes for the wire (`seal`, `goodbye`), and sends them whole, cut, together with
others, or not at all.

`Forger` writes records of TLS 1.3 that Python cannot write: key updates, alerts, records that are
empty or broken. It takes the keys of a connection that stands from the log of its secrets.
"""

import asyncio
import itertools
import socket
import ssl
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, Self

from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256, SHA384
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

import certificates
from ginsfsm import GAplic, on
from ginsfsm.c_sock import (
    EV_CONNECT,
    EV_CONNECTED,
    EV_TLS_STARTED,
    GSock,
)
from ginsfsm.c_srv_sock import GServerSock
from sockets import (
    DEADLINE,
    Owner,
    Pair,
    Peer,
    accept,
    client_of,
    gaplic,
    listener,
    set_buffers,
    wait_for,
)

ROLES = ["client", "accepted"]

V12 = ssl.TLSVersion.TLSv1_2
V13 = ssl.TLSVersion.TLSv1_3

ALERT, HANDSHAKE, DATA = 21, 22, 23
"""Types of records (RFC 8446, 5.1)."""


# -- contexts --------------------------------------------------------------------------------------


def client_context(
    version: ssl.TLSVersion | None = None, *, certificate: Path | None = None
) -> ssl.SSLContext:
    """A client that trusts the authority of the tests, with or without a certificate of its own."""
    context = ssl.create_default_context(cafile=certificates.ca())
    context.minimum_version = V12
    if version is not None:
        context.minimum_version = context.maximum_version = version
    if certificate is not None:
        context.load_cert_chain(certificate)
    return context


def server_context(
    version: ssl.TLSVersion | None = None, *, certificate: Path | None = None
) -> ssl.SSLContext:
    """A server with a certificate for localhost and 127.0.0.1."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = V12
    if version is not None:
        context.minimum_version = context.maximum_version = version
    context.load_cert_chain(certificate or certificates.server())
    return context


@cache
def server_options() -> dict[str, Any]:
    """`ssl_options` of a plain server."""
    return {"certfile": str(certificates.server())}


@cache
def client_options() -> dict[str, Any]:
    """`ssl_options` of a plain client."""
    return {"ca_certs": str(certificates.ca())}


def options_of(role: str) -> dict[str, Any]:
    """`ssl_options` of a gsock in that role."""
    return dict(client_options() if role == "client" else server_options())


def context_against(role: str, version: ssl.TLSVersion | None = None) -> ssl.SSLContext:
    """The context of the peer of a gsock in that role."""
    return server_context(version) if role == "client" else client_context(version)


# -- the peer --------------------------------------------------------------------------------------


class TlsPeer(Peer):
    """The other end of a gsock with TLS. `send`, `read` and so on count plain bytes.

    Attributes:
        tls: Python's own end of the TLS.
        pending: plain bytes that came, and nobody has read yet.
        ending: how the connection ended, once `read_to_end` or `shake` has seen it.
    """

    def __init__(
        self,
        peer: Peer,
        context: ssl.SSLContext,
        *,
        server_side: bool,
        server_hostname: str = "localhost",
    ) -> None:
        super().__init__(peer.sock)
        # Else what a test sends may wait 40 ms behind the tickets.
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self.tls = context.wrap_bio(
            self._incoming,
            self._outgoing,
            server_side=server_side,
            server_hostname=None if server_side else server_hostname,
        )
        self.pending = bytearray()

    # What goes to the wire

    def written(self) -> bytes:
        """What our TLS wants to have sent, whatever the reason."""
        return self._outgoing.read()

    def seal(self, data: bytes) -> bytes:
        """These plain bytes as records."""
        view = memoryview(data)
        while view:
            view = view[self.tls.write(view) :]
        return self.written()

    def goodbye(self) -> bytes:
        """Our close_notify."""
        try:
            # OpenSSL would take data that it has not decrypted yet for data after the end.
            self.pending += self.opened()
        except ssl.SSLError:
            pass
        try:
            self.tls.unwrap()
        except ssl.SSLError:
            pass
        return self.written()

    async def send_raw(self, cipher: bytes) -> None:
        """Bytes as they are, however long the gsock takes."""
        await super().send(cipher)

    async def send(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            await super().send(self.seal(view[:65536]))  # type: ignore[arg-type]
            view = view[65536:]

    def send_now(self, data: bytes) -> int:
        """All of it at once, or the test fails."""
        cipher = self.seal(data)
        assert super().send_now(cipher) == len(cipher), "the kernel did not take it"
        return len(data)

    def end(self) -> None:
        """Send close_notify and no more, and go on reading."""
        cipher = self.goodbye()
        assert self.sock.send(cipher) == len(cipher), "the kernel did not take it"
        super().end()

    def truncate(self) -> None:
        """Send no more, without close_notify."""
        super().end()

    # What comes from it

    def step(self) -> bool:
        """What can be done of the handshake with what came; whether it is complete."""
        try:
            self.tls.do_handshake()
        except ssl.SSLWantReadError:
            return False
        return True

    async def feed(self, size: int = 65536) -> bool:
        """Let something come; False when the connection has ended."""
        async with asyncio.timeout(DEADLINE):
            data = await self._recv(size)
        self._incoming.write(data)
        return bool(data)

    async def shake(self) -> Self:
        """All of the handshake. Raises ssl.SSLError, and ConnectionError at an end without one."""
        while True:
            try:
                done = self.step()
            finally:
                cipher = self.written()
                if cipher:
                    await self.send_raw(cipher)
            if done:
                return self
            if not await self.feed():
                raise ConnectionError("the gsock has closed the connection in the handshake")

    def opened(self) -> bytes:
        """Plain bytes of what came. Raises as `SSLObject.read` does."""
        data = bytearray()
        while True:
            try:
                more = self.tls.read(65536)
            except ssl.SSLWantReadError:
                return bytes(data)
            except ssl.SSLError:
                if data:
                    # It says so again the next time.
                    return bytes(data)
                raise
            if not more:
                if data:
                    return bytes(data)
                raise ssl.SSLZeroReturnError("close_notify")
            data += more

    async def read(self, size: int) -> bytes:
        async with asyncio.timeout(DEADLINE):
            while len(self.pending) < size:
                more = self.opened()
                self.pending += more
                await self._answer()
                if not more:
                    assert await self.feed(), f"the connection ended after {len(self.pending)}"
        data = bytes(self.pending[:size])
        del self.pending[:size]
        return data

    async def read_to_end(self, deadline: float = DEADLINE) -> tuple[bytes, str]:
        """All plain bytes until the end, and how it came.

        That is "end" for a close_notify, "truncated", "reset", or OpenSSL's word for the alert.
        """
        async with asyncio.timeout(deadline):
            while True:
                try:
                    more = self.opened()
                    self.pending += more
                    await self._answer()
                    if not more and not await self.feed():
                        return bytes(self.pending), "truncated"
                except ssl.SSLZeroReturnError:
                    return bytes(self.pending), "end"
                except ssl.SSLError as error:
                    return bytes(self.pending), error.reason or str(error)
                except ConnectionResetError:
                    return bytes(self.pending), "reset"

    async def _answer(self) -> None:
        """Send what our TLS has to say for itself, such as the answer to a key update."""
        cipher = self.written()
        if cipher:
            await self.send_raw(cipher)


# -- both ends -------------------------------------------------------------------------------------


class SecureOwner(Owner):
    """Hears of TLS as well."""

    machine = {"ST_IDLE": [*Owner.machine["ST_IDLE"], on(EV_TLS_STARTED, Owner.ac_keep)]}


class TlsPair(NamedTuple):
    """A connection: the gsock with its owner, and the peer with its TLS."""

    app: GAplic
    owner: SecureOwner
    gsock: GSock
    peer: TlsPeer


def make_secure_owner(app: GAplic, name: str = "owner") -> SecureOwner:
    return app.create_gobj(name, SecureOwner, app)


def serve_tls(app: GAplic, owner: Owner, **params: Any) -> GServerSock:
    """A server with TLS on 127.0.0.1, whose connections are the owner's."""
    return app.create_gobj(
        "server",
        GServerSock,
        app,
        **{"host": "127.0.0.1", "subscriber": owner, "ssl_options": server_options(), **params},
    )


async def dial_raw(server: GServerSock, *, rcvbuf: int = 0, sndbuf: int = 0) -> Peer:
    """A raw connection to a server, without TLS."""
    sock = socket.socket()
    try:
        set_buffers(sock, rcvbuf, sndbuf)
        peer = Peer(sock)
        async with asyncio.timeout(DEADLINE):
            await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", server.config.port))
    except BaseException:
        sock.close()
        raise
    return peer


async def dial(
    server: GServerSock,
    context: ssl.SSLContext | None = None,
    *,
    rcvbuf: int = 0,
    sndbuf: int = 0,
    server_hostname: str = "localhost",
) -> TlsPeer:
    """A connection to a server, before the handshake."""
    raw = await dial_raw(server, rcvbuf=rcvbuf, sndbuf=sndbuf)
    return TlsPeer(
        raw, context or client_context(), server_side=False, server_hostname=server_hostname
    )


@asynccontextmanager
async def tls_pair(
    role: str = "client",
    poller: str = "auto",
    *,
    version: ssl.TLSVersion | None = None,
    context: ssl.SSLContext | None = None,
    rcvbuf: int = 0,
    sndbuf: int = 0,
    shake: bool = True,
    **params: Any,
) -> AsyncIterator[TlsPair]:
    """A gsock and a peer that have made their handshake; as `sockets.pair`.

    Args:
        role: "client", or "accepted" by a GServerSock.
        poller: see the parameter of GAplic.
        version: the only one that the peer knows.
        context: of the peer, instead.
        rcvbuf: what the peer's kernel may hold unread.
        sndbuf: what the peer's kernel may hold unsent.
        shake: False leaves it before the handshake, and nobody waits for EV_CONNECTED.
        params: parameters for the gsock.
    """
    context = context or context_against(role, version)
    params = {"ssl_options": options_of(role), **params}
    async with gaplic(poller) as app:
        owner = make_secure_owner(app)
        if role == "client":
            with listener(rcvbuf=rcvbuf, sndbuf=sndbuf) as listening:
                gsock = client_of(owner, listening, **params)
                owner.tell(gsock, EV_CONNECT())
                peer = TlsPeer(await accept(listening), context, server_side=True)
        else:
            server = serve_tls(app, owner, **params)
            peer = await dial(server, context, rcvbuf=rcvbuf, sndbuf=sndbuf)
        with peer:
            if role == "accepted":
                await wait_for(lambda: server.ledger.accepted)
                (gsock,) = server.ledger
            if shake:
                await peer.shake()
                await wait_for(lambda: owner.of(EV_CONNECTED), "EV_CONNECTED")
            yield TlsPair(app, owner, gsock, peer)
            assert not owner.inside


@asynccontextmanager
async def plain_pair(
    role: str = "client", poller: str = "auto", *, rcvbuf: int = 0, **params: Any
) -> AsyncIterator[Pair]:
    """As `sockets.pair`, of a gsock that has its TLS still before it."""
    params = {"ssl_options": options_of(role), "start_tls": True, **params}
    async with gaplic(poller) as app:
        owner = make_secure_owner(app)
        if role == "client":
            with listener(rcvbuf=rcvbuf) as listening:
                owner.tell(client_of(owner, listening, **params), EV_CONNECT())
                raw = await accept(listening)
        else:
            raw = await dial_raw(serve_tls(app, owner, **params), rcvbuf=rcvbuf)
        with raw:
            await wait_for(lambda: owner.of(EV_CONNECTED), "EV_CONNECTED")
            gsock = owner.of(EV_CONNECTED)[0].source
            assert isinstance(gsock, GSock)
            yield Pair(app, owner, gsock, raw)
            assert not owner.inside


# -- records that Python does not write ------------------------------------------------------------


_numbers = itertools.count(1)


class SecretLog:
    """Where a context writes down the secrets of its connections; see `ssl.SSLContext`."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self.path = certificates.folder() / f"secrets-{next(_numbers)}"
        context.keylog_filename = str(self.path)

    def secret(self, label: str) -> bytes:
        """The latest one of that label."""
        found = [line.split() for line in self.path.read_text().splitlines()]
        return bytes.fromhex([words[2] for words in found if words[0] == label][-1])


class Forger:
    """Writes records of TLS 1.3 in the name of a peer, from the end of its handshake on.

    From its first record on the peer's own TLS must write no more: the records are numbered.

    Args:
        tls: the peer's TLS, after the handshake.
        log: the secrets of its context.
        written: records that the peer has written since the handshake, such as tickets.
    """

    def __init__(self, tls: ssl.SSLObject, log: SecretLog, written: int = 0) -> None:
        cipher = tls.cipher()
        assert cipher is not None
        self._hash: Any = SHA384() if cipher[0].endswith("SHA384") else SHA256()
        self._aead: Any = ChaCha20Poly1305 if "CHACHA" in cipher[0] else AESGCM
        self._size = 16 if "AES_128" in cipher[0] else 32
        side = "SERVER" if tls.server_side else "CLIENT"
        self._secret = log.secret(f"{side}_TRAFFIC_SECRET_0")
        self._number = written
        self._keys()

    def _derive(self, label: str, size: int) -> bytes:
        name = b"tls13 " + label.encode()
        info = struct.pack(">HB", size, len(name)) + name + b"\0"
        return HKDFExpand(self._hash, size, info).derive(self._secret)

    def _keys(self) -> None:
        self._key = self._aead(self._derive("key", self._size))
        self._iv = int.from_bytes(self._derive("iv", 12))

    def record(self, kind: int, data: bytes, *, broken: bool = False) -> bytes:
        """One record; a broken one has a wrong tag."""
        inner = data + bytes([kind])
        head = struct.pack(">BHH", DATA, 0x0303, len(inner) + 16)
        nonce = (self._iv ^ self._number).to_bytes(12)
        sealed = self._key.encrypt(nonce, inner, head)
        self._number += 1
        if broken:
            sealed = sealed[:-1] + bytes([sealed[-1] ^ 1])
        return head + sealed

    def data(self, data: bytes) -> bytes:
        return self.record(DATA, data)

    def key_update(self, *, request: bool) -> bytes:
        """A new key for what we write; with `request` the other side is asked to take one too."""
        found = self.record(HANDSHAKE, b"\x18\0\0\x01" + bytes([request]))
        self._secret = self._derive("traffic upd", self._hash.digest_size)
        self._number = 0
        self._keys()
        return found

    def close_notify(self) -> bytes:
        return self.alert(1, 0)

    def alert(self, level: int, number: int) -> bytes:
        return self.record(ALERT, bytes([level, number]))
