"""The options of `ssl_options`: what each may be, read without touching a file.

They are the arguments of the old `ssl.wrap_socket` and what people need since. They come from a
program, as Python's own constants, or from a settings file, as text and numbers: so each is taken
in both forms. `None` is as if the option were left out, as it was for `wrap_socket`, and so is an
empty path of what need not be there.

Everything that is wrong is told at once, a sentence for each fault, the option first. No sentence
shows a passphrase, nor what was given in the place of one; and since people paste the text of a key
where its path belongs, nor any text that looks like a key.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from ginsfsm.net.pem import is_pem_text
from ginsfsm.net.server_names import host_name
from ginsfsm.net.tls_versions import versions_of
from ginsfsm.net.words import bare, cut, given, kind, nearest

__all__ = [
    "KNOWN",
    "ChainOptions",
    "TlsOptions",
    "context_fault",
    "option_faults",
    "passphrase_of",
    "read_options",
]

Password = str | bytes | bytearray | Callable[[], str | bytes | bytearray]
ContextOrMaker = ssl.SSLContext | Callable[[], ssl.SSLContext]

CHAIN: Final = ("certfile", "keyfile", "password")
"""A certificate, its key, and what opens the key; also what an entry of `sni` may have."""

OPTIONAL_PATHS: Final = ("keyfile", "ca_certs")

SHAPING: Final = (
    *CHAIN, "ca_certs", "cert_reqs", "ciphers", "ssl_version", "minimum_version", "alpn", "sni",
    "session_tickets", "check_hostname",
)  # fmt: skip
"""What a context of the user's own has in itself already."""

COMMON: Final = (
    *(one for one in SHAPING if one not in ("sni", "session_tickets", "check_hostname")),
    "context", "server_side", "do_handshake_on_connect", "suppress_ragged_eofs", "sock",
)  # fmt: skip
SERVER_ONLY: Final = ("sni", "session_tickets")
CLIENT_ONLY: Final = ("check_hostname", "server_hostname")
KNOWN: Final = frozenset({*COMMON, *SERVER_ONLY, *CLIENT_ONLY})

MAX_TICKETS: Final = 100
"""Each adds some 250 bytes to every handshake. A client can use one for each connection that it
makes at the same time, which for a browser are six."""

MAX_PASSPHRASE: Final = 1024
"""Bytes. OpenSSL's own limit, PEM_BUFSIZE."""


@dataclass(frozen=True, slots=True)
class ChainOptions:
    """A certificate with its key.

    Attributes:
        where: what stands before the option in a sentence; `"sni['a.example.com']."` in an entry.
        keyfile: None means that the key stands in certfile.
        faulty: which of the options were wrong by themselves, and are left out here.
    """

    where: str
    certfile: str
    keyfile: str | None
    password: Password | None = field(repr=False)
    faulty: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class TlsOptions:
    """The options in one form, and what is wrong with them.

    Where an option is wrong its value here is what it would be if it were left out, so that the
    others can be tried all the same.
    """

    faults: tuple[str, ...]
    warnings: tuple[str, ...]
    context: ContextOrMaker | None
    chain: ChainOptions | None
    sni: Mapping[str, ChainOptions]
    ca_certs: str | None
    verify_mode: ssl.VerifyMode
    check_hostname: bool
    server_hostname: str | None
    ciphers: str | None
    minimum: ssl.TLSVersion
    maximum: ssl.TLSVersion
    alpn: tuple[str, ...]
    tickets: int | None


def option_faults(options: Mapping[str, Any], *, server_side: bool) -> list[str]:
    """What is wrong with the options by themselves; no file is touched and no function called.

    Args:
        options: of `ssl_options`.
        server_side: whether they are a server's.

    Returns:
        A sentence for each fault, the option first: `"alpn: expected ..."`; none if all is well.
    """
    return list(read_options(options, server_side=server_side).faults)


def read_options(options: Mapping[str, Any], *, server_side: bool) -> TlsOptions:
    """The options in one form. It never raises: the faults are in what it returns."""
    return _Reader(options, server_side).read()


def context_fault(context: object, *, server_side: bool) -> str | None:
    """What is wrong with a context of the user's own, or None."""
    if not isinstance(context, ssl.SSLContext):
        return f"context: expected an ssl.SSLContext, got {given(context)}"
    wrong, right, purpose = (
        (ssl.PROTOCOL_TLS_CLIENT, "PROTOCOL_TLS_SERVER", "CLIENT_AUTH")
        if server_side
        else (ssl.PROTOCOL_TLS_SERVER, "PROTOCOL_TLS_CLIENT", "SERVER_AUTH")
    )
    if context.protocol != wrong:
        return None
    return (
        f"context: it is for the other side ({wrong.name}); make it with ssl.{right} or "
        f"ssl.create_default_context(ssl.Purpose.{purpose})"
    )


def passphrase_of(value: object) -> bytes:
    """A passphrase as OpenSSL takes it, text as UTF-8.

    Raises:
        ValueError: it can be none. The text does not show it.
    """
    if isinstance(value, str):
        encoded = value.encode("utf-8", "surrogatepass")
    elif isinstance(value, (bytes, bytearray)):
        encoded = bytes(value)
    else:
        raise ValueError(f"expected a str or bytes, got {kind(value)}")
    if len(encoded) > MAX_PASSPHRASE:
        raise ValueError(f"expected at most {MAX_PASSPHRASE} bytes, got {len(encoded)}")
    return encoded


def _given_of(options: Mapping[str, Any]) -> dict[str, Any]:
    """Without those that are as if they were left out.

    The path of what need not be there may be empty: it often comes from a parameter of a service,
    whose default is.
    """
    return {
        key: value
        for key, value in options.items()
        if value is not None and not (key in OPTIONAL_PATHS and value == "")
    }


class _Reader:
    """Reads the options of one mapping; each method the one that it is named after."""

    def __init__(self, options: Mapping[str, Any], server_side: bool) -> None:
        self.options = _given_of(options)
        self.given = tuple(options)
        self.server_side = server_side
        self.faults: list[str] = []
        self.warnings: list[str] = []

    def read(self) -> TlsOptions:
        self.names()
        self.harmless()
        context = self.context()
        if context is not None:
            # They were refused already, and are not looked at further.
            for name in SHAPING:
                self.options.pop(name, None)
        verify_mode = self.cert_reqs()
        minimum, maximum = self.versions()
        return TlsOptions(
            context=context,
            chain=None if context is not None else self.chain("", self.options),
            sni=self.sni(),
            ca_certs=self.path("", "ca_certs", self.options),
            verify_mode=verify_mode,
            check_hostname=self.check_hostname(verify_mode),
            server_hostname=self.server_hostname(),
            ciphers=self.ciphers(minimum),
            minimum=minimum,
            maximum=maximum,
            alpn=self.alpn(),
            tickets=self.session_tickets(),
            # Last, when the others have been read.
            faults=tuple(self.faults),
            warnings=tuple(self.warnings),
        )

    def fault(self, option: str, sentence: str) -> None:
        self.faults.append(f"{option}: {sentence}")

    def names(self) -> None:
        """Options that are unknown, or of the other side."""
        own, other, side = (
            (SERVER_ONLY, CLIENT_ONLY, "a client")
            if self.server_side
            else (CLIENT_ONLY, SERVER_ONLY, "a server")
        )
        for name in self.given:
            if name in other:
                self.fault(name, f"an option of {side} only; leave it out")
                self.options.pop(name, None)
            elif name not in KNOWN:
                self.fault(str(name), f"unknown option{nearest(str(name), (*COMMON, *own))}")

    def harmless(self) -> None:
        """The arguments of wrap_socket that say nothing here, or nothing that could be done."""
        if "sock" in self.options:
            self.fault("sock", "ginsfsm opens its sockets itself; leave it out")
        if self.flag("server_side", self.server_side) != self.server_side:
            side = "server" if self.server_side else "client"
            self.fault("server_side", f"this is the side of a {side}; leave it out")
        if not self.flag("do_handshake_on_connect", True):
            self.fault(
                "do_handshake_on_connect",
                "the handshake is made before EV_CONNECTED; for a connection that begins without "
                "TLS use the parameter start_tls=True",
            )
        # Either is fine: an end without TLS's own is told apart from a proper one in any case.
        self.flag("suppress_ragged_eofs", True)

    def flag(self, name: str, default: bool) -> bool:
        value = self.options.get(name, default)
        if isinstance(value, bool):
            return value
        self.fault(name, f"expected True or False, got {given(value)}")
        return default

    def context(self) -> ContextOrMaker | None:
        context = self.options.get("context")
        if context is None:
            return None
        for name in SHAPING:
            if name in self.options:
                self.fault(name, "cannot be given with context, which has this in itself")
        if isinstance(context, ssl.SSLContext):
            fault = context_fault(context, server_side=self.server_side)
            if fault is not None:
                self.faults.append(fault)
        elif not callable(context):
            self.fault(
                "context",
                f"expected an ssl.SSLContext or a function that makes one, got {given(context)}",
            )
        own: ContextOrMaker = context
        return own

    def chain(self, where: str, options: Mapping[str, Any]) -> ChainOptions | None:
        """The certificate of this side, or of an entry of `sni`."""
        certfile = self.path(where, "certfile", options)
        keyfile = self.path(where, "keyfile", options)
        password = self.password(where, options)
        read = {"certfile": certfile, "keyfile": keyfile, "password": password}
        faulty = frozenset(
            name for name in CHAIN if read[name] is None and options.get(name) is not None
        )
        if certfile is not None:
            return ChainOptions(where, certfile, keyfile, password, faulty)
        if options.get("certfile") is not None:
            return None
        if self.server_side:
            entry = "an entry" if where else "a server"
            also = "" if where else ", or a context of your own"
            self.fault(f"{where}certfile", f"missing; {entry} needs a certificate{also}")
        for name in ("keyfile", "password"):
            if name in options and not self.server_side:
                self.fault(name, "of no use without certfile; give both or neither")
        return None

    def path(self, where: str, name: str, options: Mapping[str, Any]) -> str | None:
        value = options.get(name)
        if isinstance(value, os.PathLike):
            value = os.fspath(value)
        if value is None or (isinstance(value, str) and value and not is_pem_text(value)):
            return value
        self.fault(f"{where}{name}", f"expected the path of a file, got {given(value)}")
        return None

    def password(self, where: str, options: Mapping[str, Any]) -> Password | None:
        value: Password | None = options.get("password")
        if value is None or callable(value):
            return value
        try:
            return passphrase_of(value)
        except ValueError as error:
            self.fault(f"{where}password", f"{error}; a function that returns it is taken as well")
            return None

    def sni(self) -> dict[str, ChainOptions]:
        entries = self.options.get("sni", {})
        if not isinstance(entries, Mapping):
            self.fault(
                "sni",
                "expected host names, each with its certfile, keyfile and password, got "
                f"{kind(entries)}",
            )
            return {}
        chains: dict[str, ChainOptions] = {}
        seen: set[str] = set()
        for key, entry in entries.items():
            name = host_name(key)
            where = f"sni[{cut(repr(key))}]"
            if name is None:
                self.fault(where, "expected a host name, or '*.' before one, as in '*.example.com'")
                continue
            if name in seen:
                self.fault(where, "the same host name stands there twice")
            seen.add(name)
            if not isinstance(entry, Mapping):
                self.fault(where, f"expected certfile, keyfile and password, got {kind(entry)}")
                continue
            for option in entry:
                if option not in CHAIN:
                    self.fault(f"{where}.{option}", f"unknown option{nearest(option, CHAIN)}")
            chain = self.chain(f"{where}.", _given_of(entry))
            if chain is not None:
                chains[name] = chain
        return chains

    def cert_reqs(self) -> ssl.VerifyMode:
        """Whether the peer needs a certificate."""
        default = ssl.CERT_NONE if self.server_side else ssl.CERT_REQUIRED
        value = self.options.get("cert_reqs", default)
        words = {"none": 0, "optional": 1, "required": 2}
        number = words.get(bare(value, "cert_"), value)
        if isinstance(number, bool) or number not in words.values():
            self.fault(
                "cert_reqs", f"expected 'none', 'optional' or 'required', got {given(value)}"
            )
            return default
        mode = ssl.VerifyMode(number)
        if self.server_side:
            if mode and "ca_certs" not in self.options:
                self.fault(
                    "cert_reqs",
                    f"{list(words)[mode]!r} without ca_certs: nobody could be verified; give the "
                    "file or folder of the authorities that signed the clients' certificates",
                )
            elif not mode and "ca_certs" in self.options:
                self.warnings.append(
                    "ca_certs: has no effect, because clients are not asked for a certificate; "
                    "say cert_reqs='required' or 'optional'"
                )
        return mode

    def check_hostname(self, verify_mode: ssl.VerifyMode) -> bool:
        if self.server_side:
            return False
        check = self.flag("check_hostname", verify_mode != ssl.CERT_NONE)
        if check and verify_mode == ssl.CERT_NONE:
            self.fault(
                "check_hostname",
                "with cert_reqs 'none' no certificate is verified, so its name cannot be; leave "
                "out one of the two",
            )
            return False
        return check

    def server_hostname(self) -> str | None:
        value = self.options.get("server_hostname")
        if value is None:
            return None
        # As RFC 6066 wants it; no certificate has the dot either.
        name = value.removesuffix(".") if isinstance(value, str) else ""
        try:
            # As the module ssl will encode it.
            fits = bool(name.encode("idna")) and not name.startswith(".") and "\0" not in name
        except UnicodeError:
            fits = False
        if fits:
            return name
        self.fault("server_hostname", f"expected a host name or an address, got {given(value)}")
        return None

    def versions(self) -> tuple[ssl.TLSVersion, ssl.TLSVersion]:
        found = versions_of(
            self.options.get("ssl_version"),
            self.options.get("minimum_version"),
            server_side=self.server_side,
        )
        self.faults += found.faults
        self.warnings += found.warnings
        return found.minimum, found.maximum

    def ciphers(self, minimum: ssl.TLSVersion) -> str | None:
        value = self.options.get("ciphers")
        if value is None:
            return None
        if not isinstance(value, str):
            self.fault(
                "ciphers",
                f"expected OpenSSL's text, such as 'ECDHE+AESGCM', got {given(value)}",
            )
            return None
        if minimum == ssl.TLSVersion.TLSv1_3:
            self.warnings.append(
                "ciphers: has no effect, because minimum_version leaves TLS 1.3 only"
            )
        return value

    def alpn(self) -> tuple[str, ...]:
        value = self.options.get("alpn")
        if value is None:
            return ()
        if not isinstance(value, (list, tuple)) or not value:
            tail = f"; write [{cut(repr(value))}]" if isinstance(value, str) and value else ""
            self.fault(
                "alpn",
                "expected a list of protocols, such as ['h2', 'http/1.1'], got "
                f"{given(value)}{tail}",
            )
            return ()
        wrong = [
            one
            for one in value
            if not isinstance(one, str) or not one.isascii() or not 1 <= len(one) <= 255
        ]
        for one in wrong:
            self.fault("alpn", f"expected ASCII text of 1 to 255 bytes, got {given(one)}")
        return () if wrong else tuple(value)

    def session_tickets(self) -> int | None:
        """How many tickets, or None for as many as OpenSSL gives."""
        value = self.options.get("session_tickets", True)
        if value is True:
            return None
        if isinstance(value, int) and 0 <= value <= MAX_TICKETS:
            return int(value)
        self.fault(
            "session_tickets",
            f"expected True, False or a number from 0 to {MAX_TICKETS}, got {given(value)}",
        )
        return None
