"""Admission: who may come in.

One object for each server, asked about each connection that it accepts, before anything is made for
it. It decides by the peer's address and by the time, both of which the caller gives: it looks at no
clock and no socket. Four questions, in the order of `Admission.check`:

1. Is the address one of those that may come? `deny` goes before `allow`; an empty `allow` is
   everybody.
2. Are there too many connections of this address already? They are counted by `enter` and `leave`.
3. Do they come too fast from this address?
4. Do they come too fast from all addresses together?

Whether the server is full (`max_connections`) is asked apart, by `full`, because only the ledger
knows how many are open, and because the answer may be to leave the clients in the kernel's queue.
`wait` is for the same with the rate: so long has the queue to wait until the next may come.

What an address is. With IPv6 a household or a machine gets 2**64 addresses, a /64, and may come
from another one each time. So the /64 is what counts as one address; a link-local address (fe80::)
counts by itself, since all machines of a link have the same /64 there. With IPv4 each address
counts, also where it comes in the form of IPv6. A Unix socket has no address: only the rate over
all concerns it, and who may connect is a matter of the permissions of its file.

The rates are token buckets: so many tokens a second flow into a bucket that holds `burst` of them,
and a connection that comes in takes one. One that is refused takes none: a peer that goes on trying
is not kept out longer for it, and takes nothing away from the others. A bucket is one number here,
the moment at which it will be full again if nobody comes. It is kept in whole nanoseconds, for then
it is exact however long the server runs.

What is remembered. Counts exist for addresses with an open connection only, so the descriptors
bound them. A bucket that is full again is as good as none, so it can be forgotten. That is done
without a search: there are two generations of buckets, the recent ones and those before. A bucket
that is used moves to the recent ones. After the time in which an empty bucket fills up, the
generation before is full and goes as a whole, and the recent one becomes the one before. Against an
attacker with more addresses than memory there is a bound: 32 768 recent ones, then the generation
before goes early. So the buckets of those who came last are always exact. Those who came longest
ago, as if they had never come, get a full one: a crowd that large is not held by a rate for each
address in any case, but by the rate over all. To turn everybody else away instead would give the
attacker what he wants.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from ginsfsm.net.networks import Networks, packed_address, read_networks
from ginsfsm.net.words import given

__all__ = ["Admission", "Limits", "Refusal", "limits_faults"]

NANOSECONDS: Final = 1_000_000_000

GENERATION: Final = 32_768
"""Addresses whose buckets are remembered at least; two generations take some 8 MB."""

MIN_RATE: Final = 0.000_001
"""One connection in twelve days. Who means none pauses the server, or denies all."""

MAX_RATE: Final = 1_000_000
"""More than any machine accepts; up to here an interval in whole nanoseconds is exact enough."""

MARGIN: Final = 1_000
"""Nanoseconds that a wait is longer than it must, for seconds are not exact in a float."""

LONG_AGO: Final = -(1 << 62)
"""Nanoseconds; before anything that a clock tells."""

_LINK_LOCAL: Final = b"\xfe\x80"


class Refusal(StrEnum):
    """Why a connection was turned away, a closed set of words."""

    DENIED = "denied"
    """Its address is in `deny`, or not in an `allow` that is not empty."""
    FULL = "full"
    """`max_connections` are open."""
    PER_IP = "per_ip"
    """`max_connections_per_ip` of its address are open."""
    RATE_PER_IP = "rate_per_ip"
    """Its address came too often; `accept_rate_per_ip`."""
    RATE = "rate"
    """Too many came from all addresses together; `accept_rate`."""
    PROXY = "proxy"
    """It had to begin with the header of a balancer, and did not, or comes from no balancer."""
    SHUT = "shut"
    """The subscriber's present state has no row for `EV_CONNECTED`, or did not accept it."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a server allows; 0, and an empty tuple, is no limit.

    Attributes:
        max_connections: open at one time.
        max_connections_per_ip: open at one time from one address; of IPv6 from one /64.
        accept_rate: new connections a second, on average.
        accept_burst: how many may come at once after a quiet time; 0 is a second's worth.
        accept_rate_per_ip: as `accept_rate`, from one address.
        accept_burst_per_ip: as `accept_burst`, from one address.
        allow: the addresses and networks that may come; empty is everybody.
        deny: those that may not, whatever `allow` says.
    """

    max_connections: int = 0
    max_connections_per_ip: int = 0
    accept_rate: float = 0.0
    accept_burst: int = 0
    accept_rate_per_ip: float = 0.0
    accept_burst_per_ip: int = 0
    allow: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()


_COUNTS: Final = (
    "max_connections",
    "max_connections_per_ip",
    "accept_burst",
    "accept_burst_per_ip",
)
_RATES: Final = ("accept_rate", "accept_rate_per_ip")


def limits_faults(limits: Limits) -> list[str]:
    """A sentence for everything that is wrong with the limits; each begins with the field."""
    return _Read(limits).faults


class _Read:
    """Limits whose networks have been read."""

    def __init__(self, limits: Limits) -> None:
        self.faults = [*_number_faults(limits)]
        allowed, faults = read_networks("allow", limits.allow)
        self.faults += faults
        denied, faults = read_networks("deny", limits.deny)
        self.faults += faults
        self.allow = Networks(allowed)
        self.deny = Networks(denied)
        # Elsewhere "deny from all" first and then the exceptions are how one says it.
        if allowed and all(self.deny.covers(network) for network in allowed):
            self.faults.append(
                "allow: all of it is in deny, which goes first, so nobody could come in; what is "
                "not in allow is denied already, so take out of deny what contains it"
            )


def _number_faults(limits: Limits) -> Iterator[str]:
    for name in _COUNTS:
        value = getattr(limits, name)
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            what = "a second's worth" if "burst" in name else "no limit"
            yield f"{name}: expected a whole number, or 0 for {what}, got {given(value)}"
    for name in _RATES:
        value = getattr(limits, name)
        if (
            isinstance(value, bool)
            or not isinstance(value, (int, float))
            or not (value == 0 or MIN_RATE <= value <= MAX_RATE)
        ):
            yield (
                f"{name}: expected connections a second from {MIN_RATE:f} to {MAX_RATE}, or 0 for "
                f"no limit, got {given(value)}"
            )


class _Rate:
    """A rate, as what a bucket is compared with, in nanoseconds.

    Attributes:
        interval: in which one token comes.
        depth: in which an empty bucket fills up.
    """

    __slots__ = ("depth", "interval")

    def __init__(self, rate: float, burst: int) -> None:
        self.interval = round(NANOSECONDS / rate)
        self.depth = self.interval * (burst or math.ceil(rate))


class Admission:
    """Who may come in, by a server's limits.

    `check` asks. A connection that was let in is counted with `enter`, which gives the key to
    `leave` with when its descriptor has closed.

    Attributes:
        active: there is a limit that `check` looks at. While there is none, the three calls may be
            left out, provided that those who are in without a key are entered when this turns true.

    Raises:
        ValueError: the limits have faults; all of them are told.
    """

    __slots__ = (
        "_allow",
        "_before",
        "_counts",
        "_deny",
        "_each",
        "_full_at",
        "_max",
        "_max_each",
        "_moment",
        "_overall",
        "_recent",
        "_rotate_at",
        "active",
    )

    _allow: Networks | None
    _deny: Networks | None
    _overall: _Rate | None
    _each: _Rate | None

    def __init__(self, limits: Limits) -> None:
        self._counts: dict[bytes, int] = {}
        # For each address the moment at which its bucket is full again.
        self._recent: dict[bytes, int] = {}
        self._before: dict[bytes, int] = {}
        self._rotate_at = LONG_AGO
        # The same for the bucket of all together.
        self._full_at = LONG_AGO
        # The last moment that the caller gave.
        self._moment = LONG_AGO
        self._overall = self._each = None
        self.change(limits)

    def change(self, limits: Limits, now: float | None = None) -> None:
        """Go by other limits from now on.

        Those who are in stay, and stay counted, also above a lower limit. A bucket lacks as many
        tokens as before, or is empty where it lacks more than it now holds.

        Args:
            limits: all of them, also those that stay as they are.
            now: monotonic seconds; the time of the last `check` where it is not given.

        Raises:
            ValueError: they have faults; all of them are told, and nothing has changed.
        """
        read = _Read(limits)
        if read.faults:
            raise ValueError("\n".join(read.faults))
        if now is not None:
            self._moment = int(now * NANOSECONDS + 0.5)
        moment = self._moment
        self._max = limits.max_connections
        self._max_each = limits.max_connections_per_ip
        self._allow = read.allow or None
        self._deny = read.deny or None
        self._change_overall(_rate(limits.accept_rate, limits.accept_burst), moment)
        self._change_each(_rate(limits.accept_rate_per_ip, limits.accept_burst_per_ip), moment)
        self.active = bool(
            self._allow or self._deny or self._max_each or self._overall or self._each
        )

    def _change_overall(self, rate: _Rate | None, moment: int) -> None:
        before, self._overall = self._overall, rate
        if rate is None or before is None:
            self._full_at = moment
        else:
            all_together = _rescaled({b"": self._full_at}, moment, before, rate)
            self._full_at = all_together.get(b"", moment)

    def _change_each(self, rate: _Rate | None, moment: int) -> None:
        before, self._each = self._each, rate
        if rate is None or before is None:
            self._recent = {}
            self._before = {}
            self._rotate_at = moment
        elif (rate.interval, rate.depth) != (before.interval, before.depth):
            self._recent = _rescaled(self._recent, moment, before, rate)
            self._before = _rescaled(self._before, moment, before, rate)
            self._rotate_at = moment + rate.depth

    def check(self, host: str, now: float, *, overall: bool = True) -> Refusal | None:
        """Whether a connection may come in; if so, its tokens are taken.

        Args:
            host: the peer's address, as `accept` gives it; `""` for a Unix socket.
            now: monotonic seconds.
            overall: False where it has taken its token of the rate over all already.

        Returns:
            None where it may, or else why not; never `FULL` nor `SHUT`.

        Raises:
            ValueError: `host` is no address.
        """
        if not self.active:
            return None
        key = b""
        if host:
            address = packed_address(host)
            if (self._deny is not None or self._allow is not None) and self._is_out(address):
                return Refusal.DENIED
            key = _key(address)
            if self._max_each and self._counts.get(key, 0) >= self._max_each:
                return Refusal.PER_IP
        together = self._overall if overall else None
        each = self._each if key else None
        if together is None and each is None:
            return None
        self._moment = moment = int(now * NANOSECONDS + 0.5)
        full_at = full_at_each = moment
        if each is not None:
            known = self._recent.get(key)
            if known is None:
                known = self._before.get(key, moment)
            full_at_each = max(known, moment) + each.interval
            if full_at_each - moment > each.depth:
                return Refusal.RATE_PER_IP
        if together is not None:
            full_at = max(self._full_at, moment) + together.interval
            if full_at - moment > together.depth:
                return Refusal.RATE
            self._full_at = full_at
        if each is not None:
            if moment >= self._rotate_at or len(self._recent) >= GENERATION:
                self._before = self._recent
                self._recent = {}
                self._rotate_at = moment + each.depth
            self._recent[key] = full_at_each
        return None

    def denies(self, host: str) -> bool:
        """The first question of `check` alone, for one that has been turned away already.

        Args:
            host: the peer's address, as for `check`.

        Raises:
            ValueError: `host` is no address.
        """
        return bool(host) and self._is_out(packed_address(host))

    def _is_out(self, address: bytes) -> bool:
        return (self._deny is not None and address in self._deny) or (
            self._allow is not None and address not in self._allow
        )

    def give_back(self) -> None:
        """A connection that took its token of the rate over all is not to be counted after all."""
        if self._overall is not None:
            self._full_at -= self._overall.interval

    def full(self, open_now: int) -> bool:
        """Whether so many open connections are `max_connections`, or more after a change."""
        return 0 < self._max <= open_now

    def wait(self, now: float) -> float:
        """Seconds until the rate over all lets the next one in; 0 where it would now.

        A server that stops accepting for so long leaves the clients in the kernel's queue instead
        of refusing them.
        """
        overall = self._overall
        if overall is None:
            return 0.0
        moment = int(now * NANOSECONDS + 0.5)
        short = max(self._full_at, moment) + overall.interval - moment - overall.depth
        return (short + MARGIN) / NANOSECONDS if short > 0 else 0.0

    def enter(self, host: str) -> bytes:
        """Count a connection that came in.

        Returns:
            What it was counted by, for `leave`; empty for a Unix socket, which is not counted.

        Raises:
            ValueError: `host` is no address. Nothing was counted.
        """
        if not host:
            return b""
        key = _key(packed_address(host))
        counts = self._counts
        counts[key] = counts.get(key, 0) + 1
        return key

    def leave(self, key: bytes) -> None:
        """A connection that was entered is open no more.

        Raises:
            KeyError: none is in under this key: one was taken out twice, and the limit could not be
                trusted any more.
        """
        if not key:
            return
        count = self._counts.get(key)
        if count is None:
            raise KeyError(
                f"{key!r}: no connection is in under this key; leave once for each enter, with the "
                "key that enter gave"
            )
        if count == 1:
            del self._counts[key]
        else:
            self._counts[key] = count - 1


def _key(address: bytes) -> bytes:
    """What a packed address counts by."""
    return address if address.startswith(_LINK_LOCAL) else address[:8]


def _rate(rate: float, burst: int) -> _Rate | None:
    return _Rate(rate, burst) if rate else None


def _rescaled(
    full_at: dict[bytes, int], moment: int, before: _Rate, after: _Rate
) -> dict[bytes, int]:
    """When buckets that lack as many tokens as before are full at another rate; those not full."""
    old, new, depth = before.interval, after.interval, after.depth
    return {
        key: moment + min((when - moment) * new // old, depth)
        for key, when in full_at.items()
        if when > moment
    }
