"""TLS of a server or a client: from the options of `ssl_options` to an `ssl.SSLContext`.

`option_faults` looks at the options alone; `build_tls` reads the files too and makes the context;
`all_faults` reads them only where the options have a fault already, and no context will be made.
Whatever is wrong is found here, before a port is opened or a client answered, and told at once.
OpenSSL would ask for a missing passphrase on the terminal, and so hold a server that starts by
itself for ever: it is always given somebody to ask.

What a context of ours does unless the options say otherwise: TLS 1.2 and 1.3. Under 1.2 a server
agrees only to ciphers with forward secrecy and authenticated encryption. Nobody renegotiates and
nothing is compressed. A client trusts whom the system trusts, and looks at the host's name.

Names (`sni`). The client says in its first message which host it means, and a server with several
certificates chooses then, by giving the connection another context. What OpenSSL takes from that
one and what from the first differs from setting to setting: certificate, authorities, ciphers of
TLS 1.2 and ALPN from the new; versions, options, tickets and whether a client needs a certificate
from the old. So every context of a server is built alike, but for the certificate.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from ginsfsm.net.certificate import Certificate
from ginsfsm.net.file_identity import FileIdentity, file_identity
from ginsfsm.net.key_pair import KeyPair
from ginsfsm.net.pem import Pem, PemError, read_pem
from ginsfsm.net.server_names import choose_context, record_name
from ginsfsm.net.ssl_options import SslOptions
from ginsfsm.net.tls_options import (
    ChainOptions,
    TlsOptions,
    context_fault,
    option_faults,
    read_options,
)

__all__ = ["SslOptions", "Tls", "TlsError", "all_faults", "build_tls", "option_faults"]

SERVER_CIPHERS: Final = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""Of TLS 1.2, and what Mozilla calls intermediate without DHE. Those of 1.3 are all good."""

OPTIONS: Final = (
    ssl.OP_NO_RENEGOTIATION
    | ssl.OP_NO_COMPRESSION
    | ssl.OP_SINGLE_ECDH_USE
    # The server's order of ciphers counts, except that a client which puts ChaCha20 first, because
    # it has no hardware for AES, gets it. Python 3.11 has no name for that exception.
    | ssl.OP_CIPHER_SERVER_PREFERENCE
    | getattr(ssl, "OP_PRIORITIZE_CHACHA", 0)
)


class TlsError(ValueError):
    """Options with which no connection can be made.

    Attributes:
        faults: a sentence each, the option first: `"certfile: there is no file 'x.crt'"`. None
            shows a passphrase or a key.
    """

    def __init__(self, faults: tuple[str, ...]) -> None:
        super().__init__(faults)
        self.faults = faults

    def __str__(self) -> str:
        if len(self.faults) == 1:
            return self.faults[0]
        return "\n  ".join([f"{len(self.faults)} faults", *self.faults])


@dataclass(frozen=True, slots=True)
class Tls:
    """What the handshakes of one server, or of one client, need.

    Attributes:
        context: for `wrap_bio`.
        server_side: for `wrap_bio` as well.
        server_hostname: the name that a client asks for and verifies; None: that of the host which
            it connects to.
        certificates: the main one first, then those of `sni`. Empty with a context of the user's
            own, which does not tell, and for a client without one.
        files: what was read, folders too: when one of them changes, build anew.
        identities: of the files, in their order, as they were before they were read.
        warnings: what is not wrong but should be known, a sentence each, the option first.
    """

    context: ssl.SSLContext
    server_side: bool
    server_hostname: str | None
    certificates: tuple[Certificate, ...]
    files: tuple[str, ...]
    identities: tuple[FileIdentity, ...]
    warnings: tuple[str, ...]


def build_tls(options: Mapping[str, Any], *, server_side: bool) -> Tls:
    """Read the files and make the context.

    Blocks for as long as reading the files takes, and a `password` or `context` function. The
    terminal is never asked.

    With `sni` or without, an `SSLObject` of a server's context gets the attribute `server_name`
    when the client's first message is read: the name that it asked for, or None. It is as the
    client sent it, so it may hold any ASCII character: show it with `repr`. For that the context
    has an `sni_callback`. A context of the user's own gets one that does only this, if it has
    none; one that has its own is left alone, and then there is no such attribute.

    Args:
        options: of `ssl_options`. No option is needed by a client; a server needs `certfile` or
            `context`.
        server_side: whether to accept handshakes or to begin them.

    Raises:
        TlsError: with everything that is wrong. If a `context` function raised, that is its cause.
    """
    build = _Build(read_options(options, server_side=server_side), server_side)
    context = build.own_context() if build.wanted.context is not None else build.context()
    # Raised here and not where they are found, so that the error drags no other error along.
    if build.faults or context is None:
        raise TlsError(tuple(dict.fromkeys(build.faults))) from build.cause
    return Tls(
        context,
        server_side,
        build.wanted.server_hostname,
        tuple(build.certificates),
        tuple(build.files),
        tuple(build.files.values()),
        tuple(dict.fromkeys(build.warnings)),
    )


def all_faults(options: Mapping[str, Any], *, server_side: bool) -> list[str]:
    """What is wrong with the options; where anything is, what is wrong with the files as well.

    So one error tells all, and options without a fault have their files read once, by `build_tls`.

    Args:
        options: of `ssl_options`.
        server_side: whether they are a server's.

    Returns:
        A sentence for each fault, the option first; none where `build_tls` has the next word.
    """
    faults = option_faults(options, server_side=server_side)
    if not faults:
        return []
    try:
        build_tls(options, server_side=server_side)
    except TlsError as error:
        return list(error.faults)
    return faults


class _Build:
    """One building: collects what was read, and what is wrong, and goes on with the rest."""

    def __init__(self, wanted: TlsOptions, server_side: bool) -> None:
        self.wanted = wanted
        self.server_side = server_side
        self.faults = list(wanted.faults)
        self.warnings = list(wanted.warnings)
        self.certificates: list[Certificate] = []
        self.files: dict[str, FileIdentity] = {}
        self.cause: Exception | None = None

    def own_context(self) -> ssl.SSLContext | None:
        """The user's own."""
        made: object = self.wanted.context
        if callable(made):
            try:
                made = made()
            except Exception as error:
                self.cause = error
                self.faults.append(
                    f"context: the function raised {type(error).__name__}: {error}".rstrip(": ")
                )
                return None
            fault = context_fault(made, server_side=self.server_side)
            if fault is not None:
                self.faults.append(fault)
        if self.faults or not isinstance(made, ssl.SSLContext):
            return None
        if self.server_side and made.sni_callback is None:
            made.sni_callback = record_name
        return made

    def context(self) -> ssl.SSLContext:
        """Ours, with one more for each entry of `sni`."""
        wanted = self.wanted
        main = self.without_chain()
        if wanted.chain is not None:
            self.load(main, wanted.chain)
        others: dict[str, ssl.SSLContext] = {}
        for name, chain in wanted.sni.items():
            others[name] = self.without_chain()
            self.load(others[name], chain)
        if self.server_side:
            # The function must not hold the main context, or the two would keep each other alive
            # until the garbage collector comes.
            main.sni_callback = choose_context(others) if others else record_name
        return main

    def without_chain(self) -> ssl.SSLContext:
        """All that the contexts of one side have in common."""
        wanted = self.wanted
        context = ssl.SSLContext(
            ssl.PROTOCOL_TLS_SERVER if self.server_side else ssl.PROTOCOL_TLS_CLIENT
        )
        context.options |= OPTIONS
        context.minimum_version = wanted.minimum
        context.maximum_version = wanted.maximum
        # In this order: neither may be, for a moment, what the other forbids.
        context.check_hostname = False
        context.verify_mode = wanted.verify_mode
        context.check_hostname = wanted.check_hostname
        if self.server_side or wanted.ciphers is not None:
            self.choose_ciphers(context, wanted.ciphers)
        if wanted.alpn:
            context.set_alpn_protocols(wanted.alpn)
        if wanted.tickets is not None:
            context.num_tickets = wanted.tickets
            if not wanted.tickets:
                # The number is of TLS 1.3 alone.
                context.options |= ssl.OP_NO_TICKET
        if wanted.ca_certs is not None:
            self.trust(context, wanted.ca_certs)
        elif not self.server_side and wanted.verify_mode != ssl.CERT_NONE:
            context.load_default_certs(ssl.Purpose.SERVER_AUTH)
        return context

    def load(self, context: ssl.SSLContext, chain: ChainOptions) -> None:
        """Load a certificate and its key."""
        pair = KeyPair(chain)
        for path in pair.files:
            self.note(path)
        pair.load(context)
        self.faults += pair.faults
        if pair.certificate is None:
            return
        self.certificates.append(pair.certificate)
        what = f"{chain.where}certfile: the certificate in {chain.certfile!r} is"
        now = datetime.now(UTC)
        if pair.certificate.not_after < now:
            self.warnings.append(f"{what} expired since {_date(pair.certificate.not_after)}")
        elif pair.certificate.not_before > now:
            self.warnings.append(f"{what} not valid before {_date(pair.certificate.not_before)}")

    def note(self, path: str) -> None:
        """Remember what the file is, before it is read; the first time, where it is twice."""
        if path not in self.files:
            self.files[path] = file_identity(path)

    def choose_ciphers(self, context: ssl.SSLContext, ciphers: str | None) -> None:
        try:
            context.set_ciphers(SERVER_CIPHERS if ciphers is None else ciphers)
        except (ssl.SSLError, ValueError):
            self.faults.append(
                f"ciphers: {ciphers!r} selects none of OpenSSL's ciphers of TLS 1.2; those of TLS "
                "1.3 cannot be chosen"
            )

    # -- authorities -------------------------------------------------------------------------------

    def trust(self, context: ssl.SSLContext, path: str) -> None:
        """Load the authorities of `ca_certs`."""
        self.note(path)
        if os.path.isdir(path):
            self.trust_folder(context, path)
            return
        try:
            pem = read_pem(path)
        except PemError as error:
            self.faults.append(f"ca_certs: {error}")
            return
        if not self.trust_file(context, pem):
            self.faults.append(f"ca_certs: {path!r} holds no certificate in PEM form")

    def trust_folder(self, context: ssl.SSLContext, folder: str) -> None:
        """Load every certificate in it, whatever its file is called.

        OpenSSL would look only for names that `openssl rehash` makes, and only when a peer's
        certificate asks for one: then a folder without them would trust nobody and nothing say so.
        """
        try:
            with os.scandir(folder) as entries:
                paths = sorted(entry.path for entry in entries if entry.is_file())
        except OSError as error:
            self.faults.append(f"ca_certs: {folder!r} cannot be read: {error.strerror}")
            return
        found = False
        for path in paths:
            identity = file_identity(path)
            try:
                pem = read_pem(path)
            except PemError as error:
                # Perhaps the key of somebody else, which is none of our business.
                self.warnings.append(f"ca_certs: {error}; it was left out")
                continue
            if self.trust_file(context, pem):
                self.files.setdefault(path, identity)
                found = True
        if not found:
            self.faults.append(f"ca_certs: no file in {folder!r} holds a certificate in PEM form")

    def trust_file(self, context: ssl.SSLContext, pem: Pem) -> bool:
        """Load what the file holds; false if that is no certificate."""
        if not pem.certificates:
            return False
        try:
            context.load_verify_locations(cafile=pem.path)
        except OSError:
            self.faults.append(f"ca_certs: a certificate in {pem.path!r} is damaged")
        return True


def _date(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%d %H:%M UTC")
