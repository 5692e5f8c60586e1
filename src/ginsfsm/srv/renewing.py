"""Renewing: the certificates of a server, which change while it runs."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Final

from ginsfsm.errors import GConfigError
from ginsfsm.logs.fields import about
from ginsfsm.net.certificate import Certificate
from ginsfsm.srv.base import ServerBase
from ginsfsm.srv.events import EV_LOOK, EV_RELOAD_TLS

__all__ = ["Renewing"]

logger: Final = logging.getLogger("ginsfsm")

LOOK: Final = 3600.0
"""Seconds between two looks at how many days the certificates have left."""


class Renewing(ServerBase):
    """A server that has certificates."""

    __slots__ = ()

    @property
    def certificates(self) -> tuple[Certificate, ...]:
        """The certificates in use, the main one first, then those of `sni`.

        Each tells its file, names, dates and `days_left`. Empty without TLS, and where the options
        bring a `context` of their own, which does not tell.
        """
        return () if self._tls_source is None else self._tls_source.tls.certificates

    def ac_reload_tls(self, _event: EV_RELOAD_TLS) -> bool:
        source = self._tls_source
        if source is None:
            logger.warning(
                "%s: there is no TLS to reload: it has no ssl_options", self.path, extra=about(self)
            )
            return False
        # Where they cannot be read, they are tried again when they have changed once more.
        self._watch_of_files.see(source.tls.files)
        try:
            fresh = self._own_tls_source()
            assert fresh is not None
            source.tls = fresh.tls
            # As they were before they were read: what changes meanwhile is found at the next look.
            self._watch_of_files.know(fresh.tls.identities)
        except GConfigError as error:
            logger.error(
                "not reloaded, the certificates from before serve on: %s", error,
                extra=about(self, error=error),
            )  # fmt: skip
            return False
        logger.info("%s: TLS reloaded%s", self.path, _dates(self.certificates), extra=about(self))
        self._warn_of_new()
        return True

    def ac_look(self, _event: EV_LOOK) -> None:
        source = self._tls_source
        if source is None:
            return
        if self.config.watch_certificates and self._watch_of_files.changed(source.tls.files):
            self.send_event(self, EV_RELOAD_TLS())
        self._warn_of_dates()

    def _look_at_certificates(self) -> None:
        """Look now at the dates, and from now on from time to time."""
        if self._look is not None:
            self._look.cancel()
            self._look = None
        if self._tls_source is None:
            return
        self._watch_of_files.know(self._tls_source.tls.identities)
        self._warn_of_new()
        self._look_later()

    def _look_later(self) -> None:
        seconds = self.config.watch_certificates or LOOK
        self._look = self.gaplic.call_later(self, min(seconds, LOOK), self._look_now)

    def _look_now(self) -> None:
        self._look_later()
        self.send_event(self, EV_LOOK())

    def _warn_of_dates(self) -> None:
        for warning in self._watch_of_files.warnings(self.certificates):
            logger.warning("%s: %s", self.path, warning, extra=about(self))

    def _warn_of_new(self) -> None:
        """The same, when they have just been read: that one has expired has been said with that."""
        expired = [one for one in self.certificates if one.days_left() <= 0]
        list(self._watch_of_files.warnings(expired))
        self._warn_of_dates()


def _dates(certificates: Sequence[Certificate]) -> str:
    return "".join(f"; {one.file} until {one.not_after:%Y-%m-%d}" for one in certificates)
