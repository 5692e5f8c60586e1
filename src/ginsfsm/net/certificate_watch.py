"""CertificateWatch: which certificates run out, and whether their files have changed.

It only answers questions; whoever asks has the clock. Files are compared by their identities.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Final

from ginsfsm.net.certificate import Certificate
from ginsfsm.net.file_identity import FileIdentity, file_identity

__all__ = ["CertificateWatch"]

WARN_DAYS: Final = (14, 7, 1, 0)
"""Days left at which it is said once more; certificates are renewed a month before their end."""


class CertificateWatch:
    """Remembers what was said and what the files were."""

    def __init__(self) -> None:
        self._told: dict[tuple[str, datetime], int] = {}
        self._seen: tuple[FileIdentity, ...] = ()

    def see(self, files: Sequence[str]) -> None:
        """Take the files as they are now for known."""
        self._seen = _identities(files)

    def know(self, identities: Sequence[FileIdentity]) -> None:
        """Take the files as they were then for known; in the order in which they are asked for."""
        self._seen = tuple(identities)

    def changed(self, files: Sequence[str]) -> bool:
        """Whether the files have changed since they were seen; they are seen with it."""
        before, self._seen = self._seen, _identities(files)
        return self._seen != before

    def warnings(
        self, certificates: Iterable[Certificate], now: datetime | None = None
    ) -> Iterator[str]:
        """What has to be said of those that run out, each threshold once."""
        now = now or datetime.now(UTC)
        for one in certificates:
            left = one.days_left(now)
            reached = [days for days in WARN_DAYS if left <= days]
            key = (one.file, one.not_after)
            if not reached or self._told.get(key, WARN_DAYS[0] + 1) <= reached[-1]:
                continue
            self._told[key] = reached[-1]
            names = ", ".join(one.names) or "without a name"
            date = f"{one.not_after:%Y-%m-%d %H:%M} UTC"
            if left <= 0:
                yield f"the certificate {one.file} ({names}) has expired on {date}"
            else:
                yield f"the certificate {one.file} ({names}) expires in {left:.1f} days, on {date}"


def _identities(files: Sequence[str]) -> tuple[FileIdentity, ...]:
    return tuple(file_identity(file) for file in files)
