"""The ledger of a server's connections: which are open, and how many there were.

A plain ledger, shared by the server and its connections and outliving the server, counts and lists
them. A connection counts from accept, handshake included, until its descriptor closes, before
EV_DISCONNECTED. Whoever asks how many are open (`n_gsocks`, a limit, a drain) asks this ledger and
keeps no count of its own, so the answer is exact whatever way a connection ends.

It belongs to one thread, like everything of a gaplic.
"""

from collections.abc import Callable, Hashable, Iterator
from typing import Generic, TypeVar

__all__ = ["Ledger"]

T = TypeVar("T", bound=Hashable)


class Ledger(Generic[T]):
    """The open connections, in order of opening, and counters that only grow.

    A connection is known by its hash, which for a gobj is its identity. An open one costs an entry
    of a dictionary, about 60 bytes at worst; `open` and `close` cost one operation of it each.

    Attributes:
        accepted: how many were opened, since the beginning; those still open among them.
        refused_by: how many the server turned away, by the reason; `count_refused` counts.
        failed: how many failed while they were being made, by `count_failed`.
        handshakes: how many handshakes of TLS were completed, by `count_handshake`.
        failed_handshakes: how many were not, by `count_failed_handshake`.
        accept_errors: failed accepts by the name of the error, by `count_accept_error`.
        rx_bytes: what those that have closed had received, by `add_traffic`; likewise the others.
        on_close: called without arguments after each close, when the entry has gone; the server
            goes on accepting with it. A server that ends sets it to `None` and leaves the ledger to
            its connections.
    """

    __slots__ = (
        "_open",
        "accept_errors",
        "accepted",
        "failed",
        "failed_handshakes",
        "handshakes",
        "on_close",
        "refused_by",
        "rx_bytes",
        "rx_messages",
        "tx_bytes",
        "tx_messages",
    )

    def __init__(self) -> None:
        # A dictionary and not a set, for the order; the values mean nothing.
        self._open: dict[T, None] = {}
        self.accepted = 0
        self.refused_by: dict[str, int] = {}
        self.failed = 0
        self.handshakes = 0
        self.failed_handshakes = 0
        self.accept_errors: dict[str, int] = {}
        self.rx_bytes = 0
        self.tx_bytes = 0
        self.rx_messages = 0
        self.tx_messages = 0
        self.on_close: Callable[[], None] | None = None

    def open(self, connection: T) -> None:
        """Enter a connection that was accepted, and count it in `accepted`.

        Raises:
            ValueError: it is open already. Nothing was counted.
        """
        opened = self._open
        before = len(opened)
        opened[connection] = None
        # Asking the length costs less than a second look-up, and an old entry was not changed.
        if len(opened) == before:
            raise ValueError(
                f"{connection!r} is open in the ledger already: a connection is opened once, when "
                "it is accepted"
            )
        self.accepted += 1

    def close(self, connection: T) -> None:
        """Strike out a connection whose descriptor has closed, then call `on_close`.

        Not idempotent on purpose: closing twice means that two places believe they ended the
        connection, and then neither the count nor EV_DISCONNECTED can be trusted.

        Raises:
            KeyError: it is not open. `on_close` was not called.
        """
        try:
            del self._open[connection]
        except KeyError:
            raise KeyError(
                f"{connection!r} is not open in the ledger: it was never opened, or it was closed "
                "before; close it once, where its descriptor closes"
            ) from None
        if self.on_close is not None:
            self.on_close()

    @property
    def refused(self) -> int:
        """How many the server turned away."""
        return sum(self.refused_by.values())

    def count_refused(self, reason: str) -> None:
        """Count a connection that the server turned away. It opens and closes nothing."""
        self.refused_by[reason] = self.refused_by.get(reason, 0) + 1

    def count_failed(self) -> None:
        """Count a connection that failed while it was being made. It opens and closes nothing."""
        self.failed += 1

    def count_handshake(self) -> None:
        """Count a handshake of TLS that was completed."""
        self.handshakes += 1

    def count_failed_handshake(self) -> None:
        """Count a handshake of TLS that failed or took too long."""
        self.failed_handshakes += 1

    def count_accept_error(self, name: str) -> None:
        """Count an accept that failed, by the name of the error, such as `"EMFILE"`."""
        self.accept_errors[name] = self.accept_errors.get(name, 0) + 1

    def add_traffic(self, rx_bytes: int, tx_bytes: int, rx_messages: int, tx_messages: int) -> None:
        """Keep what a connection that closes now has carried."""
        self.rx_bytes += rx_bytes
        self.tx_bytes += tx_bytes
        self.rx_messages += rx_messages
        self.tx_messages += tx_messages

    def __len__(self) -> int:
        """How many are open now."""
        return len(self._open)

    def __bool__(self) -> bool:
        """Always true: `ledger or Ledger()` must not replace a shared ledger that is empty now."""
        return True

    def __iter__(self) -> Iterator[T]:
        """Those open now, in order of opening; a snapshot, so they may be closed meanwhile."""
        return iter(tuple(self._open))

    def __repr__(self) -> str:
        return (
            f"<Ledger: {len(self._open)} open, {self.accepted} accepted, "
            f"{self.refused} refused, {self.failed} failed>"
        )
