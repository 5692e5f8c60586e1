"""TlsSource: where connections get their TLS from, and where a server changes it.

A server shares one with all connections that it accepts. Each asks for its SSLObject when its
handshake begins, so a certificate or a rule that was changed meanwhile holds for it as a whole.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable

from ginsfsm.net.tls import Tls

__all__ = ["TlsSource"]


class TlsSource:
    """The TLS settings in use now.

    Attributes:
        tls: the settings; assign others and the next handshake uses them.
    """

    __slots__ = ("tls",)

    def __init__(self, tls: Tls) -> None:
        self.tls = tls

    def wrapper(self, host: str) -> Callable[[ssl.MemoryBIO, ssl.MemoryBIO], ssl.SSLObject]:
        """What makes the SSLObject of a connection from its buffers, when it is called.

        Args:
            host: where a client connects to, which the certificate has to be for unless the options
                name another.
        """
        if self.tls.server_side:
            return self._wrap_accepted
        # An absolute name is written with a dot that no certificate has, a link-local address with
        # an interface.
        name = self.tls.server_hostname or host.partition("%")[0].rstrip(".")

        def wrap(incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO) -> ssl.SSLObject:
            if not name and self.tls.context.check_hostname:
                # OpenSSL would verify no name at all, and Python says nothing here.
                raise ValueError(f"{host!r} is no host name that could be verified")
            return self.tls.context.wrap_bio(incoming, outgoing, server_hostname=name or None)

        return wrap

    def _wrap_accepted(self, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO) -> ssl.SSLObject:
        return self.tls.context.wrap_bio(incoming, outgoing, server_side=True)
