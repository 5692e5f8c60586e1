"""Admission: limits, rates and lists, alone and under every order of coming, going and changing."""

from __future__ import annotations

import ipaddress
import math
import pickle
import tracemalloc
from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ginsfsm.net.admission import GENERATION, Admission, Limits, Refusal, limits_faults

DENIED, PER_IP = Refusal.DENIED, Refusal.PER_IP
RATE, RATE_PER_IP = Refusal.RATE, Refusal.RATE_PER_IP


def admitted(admission: Admission, host: str, now: float, count: int) -> int:
    """How many of so many at once may come in."""
    return sum(admission.check(host, now) is None for _ in range(count))


# Who may come


def test_without_limits_everybody_may_come() -> None:
    admission = Admission(Limits())
    assert not admission.active
    assert admission.check("192.0.2.7", 0) is None
    assert admission.check("", 0) is None
    assert not admission.full(1_000_000)
    assert admission.wait(0) == 0


def test_denied_is_who_is_in_deny() -> None:
    admission = Admission(Limits(deny=("10.0.0.0/8", "2001:db8:bad::/48")))
    assert admission.active
    assert admission.check("10.1.2.3", 0) is DENIED
    assert admission.check("::ffff:10.1.2.3", 0) is DENIED
    assert admission.check("2001:db8:bad::1", 0) is DENIED
    assert admission.check("11.1.2.3", 0) is None
    assert admission.check("2001:db8:600d::1", 0) is None


def test_denied_is_who_is_not_in_an_allow_that_is_not_empty() -> None:
    admission = Admission(Limits(allow=("10.0.0.0/8",)))
    assert admission.check("10.1.2.3", 0) is None
    assert admission.check("11.1.2.3", 0) is DENIED
    assert admission.check("2001:db8::1", 0) is DENIED


def test_deny_goes_before_allow() -> None:
    admission = Admission(Limits(allow=("10.0.0.0/8",), deny=("10.0.0.7",)))
    assert admission.check("10.0.0.7", 0) is DENIED
    assert admission.check("10.0.0.8", 0) is None


def test_a_unix_socket_is_in_no_network_and_counted_nowhere() -> None:
    admission = Admission(Limits(allow=("10.0.0.0/8",), max_connections_per_ip=1, accept_rate=2))
    assert admission.enter("") == b""
    assert admission.check("", 0) is None
    admission.leave(b"")
    # The rate over all concerns it.
    assert admission.check("", 0) is None
    assert admission.check("", 0) is RATE


def test_a_rate_for_each_address_is_none_for_unix_sockets() -> None:
    admission = Admission(Limits(accept_rate_per_ip=1))
    assert admitted(admission, "", 0, 100) == 100


def test_a_host_that_is_no_address_is_an_error() -> None:
    admission = Admission(Limits(max_connections_per_ip=1))
    with pytest.raises(ValueError, match="expected the address of a peer"):
        admission.check("localhost", 0)
    with pytest.raises(ValueError, match="expected the address of a peer"):
        admission.enter("localhost")


# How many


def test_full_is_exact() -> None:
    admission = Admission(Limits(max_connections=3))
    assert [admission.full(n) for n in range(5)] == [False, False, False, True, True]
    # It is asked apart.
    assert not admission.active


def test_per_ip_counts_those_who_are_in() -> None:
    admission = Admission(Limits(max_connections_per_ip=2))
    first = admission.enter("192.0.2.7")
    assert admission.check("192.0.2.7", 0) is None
    admission.enter("192.0.2.7")
    assert admission.check("192.0.2.7", 0) is PER_IP
    assert admission.check("192.0.2.8", 0) is None
    admission.leave(first)
    assert admission.check("192.0.2.7", 0) is None


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("192.0.2.7", "192.0.2.7", True),
        ("192.0.2.7", "192.0.2.8", False),
        ("192.0.2.7", "::ffff:192.0.2.7", True),
        ("::ffff:192.0.2.7", "::ffff:192.0.2.8", False),
        ("2001:db8:1:2::7", "2001:db8:1:2:ffff:ffff:ffff:ffff", True),
        ("2001:db8:1:2::7", "2001:db8:1:3::7", False),
        ("::1", "::2", True),
        # All machines of a link have this /64.
        ("fe80::7", "fe80::8", False),
        ("fe80::7%eth0", "fe80::7", True),
    ],
)
def test_what_is_one_address(one: str, other: str, same: bool) -> None:
    admission = Admission(Limits(max_connections_per_ip=1))
    key = admission.enter(one)
    assert admission.check(other, 0) is (PER_IP if same else None)
    assert (admission.enter(other) == key) is same


def test_to_leave_more_often_than_one_entered_is_an_error() -> None:
    admission = Admission(Limits())
    key = admission.enter("192.0.2.7")
    admission.enter("192.0.2.7")
    admission.leave(key)
    admission.leave(key)
    with pytest.raises(KeyError, match="leave once for each enter"):
        admission.leave(key)


def test_those_who_are_in_stay_counted_when_the_limits_change() -> None:
    admission = Admission(Limits())
    keys = [admission.enter("192.0.2.7") for _ in range(3)]
    admission.change(Limits(max_connections_per_ip=2))
    for key in keys[:2]:
        assert admission.check("192.0.2.7", 0) is PER_IP
        admission.leave(key)
    assert admission.check("192.0.2.7", 0) is None
    admission.change(Limits(max_connections_per_ip=1))
    assert admission.check("192.0.2.7", 0) is PER_IP


# How fast


def test_a_burst_and_then_the_rate() -> None:
    admission = Admission(Limits(accept_rate=10, accept_burst=3))
    assert admitted(admission, "192.0.2.7", 100, 10) == 3
    assert admission.check("192.0.2.7", 100.099) is RATE
    assert admission.check("192.0.2.7", 100.1) is None
    assert admission.check("192.0.2.7", 100.1) is RATE
    # It holds no more than the burst, however long nobody comes.
    assert admitted(admission, "192.0.2.7", 1_000_000, 10) == 3


@pytest.mark.parametrize(("rate", "burst"), [(0.1, 1), (1, 1), (2.5, 3), (100, 100)])
def test_a_burst_is_a_seconds_worth_where_it_is_not_given(rate: float, burst: int) -> None:
    assert admitted(Admission(Limits(accept_rate=rate)), "", 5, 1000) == burst
    assert admitted(Admission(Limits(accept_rate_per_ip=rate)), "::1", 5, 1000) == burst


def test_a_token_is_there_at_its_very_moment() -> None:
    admission = Admission(Limits(accept_rate=10, accept_burst=1))
    # 0.1 and its multiples are no exact numbers in a float.
    assert all(admission.check("", n / 10) is None for n in range(10_000))


def test_each_address_has_a_bucket_of_its_own() -> None:
    admission = Admission(Limits(accept_rate_per_ip=1, accept_burst_per_ip=2))
    assert admitted(admission, "192.0.2.7", 100, 5) == 2
    assert admitted(admission, "192.0.2.8", 100, 5) == 2
    assert admission.check("192.0.2.7", 100) is RATE_PER_IP
    assert admission.check("192.0.2.7", 101) is None


def test_the_bucket_of_an_address_holds_no_more_than_the_burst() -> None:
    admission = Admission(Limits(accept_rate_per_ip=10, accept_burst_per_ip=3))
    for now in (100, 100.35, 101, 2000):
        assert admitted(admission, "192.0.2.7", now, 10) == 3
    assert admission.check("192.0.2.7", 2000.099) is RATE_PER_IP
    assert admission.check("192.0.2.7", 2000.1) is None


def test_a_bucket_is_remembered_until_it_is_full_again_whoever_comes_meanwhile() -> None:
    admission = Admission(Limits(accept_rate_per_ip=1, accept_burst_per_ip=10))
    assert admitted(admission, "192.0.2.7", 100, 20) == 10
    for now in range(100, 109):
        assert admission.check("192.0.2.8", now) is None
        assert admission.check("192.0.2.9", now) is None
    assert admitted(admission, "192.0.2.7", 109, 20) == 9


def test_who_is_refused_takes_nothing_away() -> None:
    admission = Admission(Limits(accept_rate=1, accept_burst=3, accept_rate_per_ip=1))
    assert admission.check("192.0.2.7", 100) is None
    for _ in range(100):
        assert admission.check("192.0.2.7", 100.5) is RATE_PER_IP
    assert admission.check("192.0.2.8", 100.5) is None
    assert admission.check("192.0.2.9", 100.5) is None
    for _ in range(100):
        assert admission.check("192.0.2.10", 100.5) is RATE
    # Neither the one's bucket nor the other's has been touched.
    assert admission.check("192.0.2.7", 101) is None
    assert admission.check("192.0.2.10", 102) is None


def test_the_order_of_the_questions() -> None:
    limits = Limits(
        deny=("192.0.2.7",), max_connections_per_ip=1, accept_rate_per_ip=1, accept_rate=1
    )
    admission = Admission(limits)
    assert admission.check("192.0.2.8", 100) is None
    assert admission.check("192.0.2.9", 100) is RATE
    assert admission.check("192.0.2.8", 100) is RATE_PER_IP
    admission.enter("192.0.2.8")
    assert admission.check("192.0.2.8", 100) is PER_IP
    assert admission.check("192.0.2.7", 100) is DENIED


def test_who_waits_as_long_as_told_comes_in_and_not_before() -> None:
    admission = Admission(Limits(accept_rate=3))
    now = 1_000_000.7
    assert admission.wait(now) == 0
    assert admitted(admission, "", now, 10) == 3
    for _ in range(100):
        wait = admission.wait(now)
        assert 0 < wait <= 1 / 3 + 1e-5
        assert admission.wait(now + wait - 1e-4) > 0
        now += wait
        assert admission.wait(now) == 0
        assert admission.check("", now) is None


@pytest.mark.parametrize("rate", [0.001, 0.7, 3, 30_000, 1_000_000])
def test_over_a_long_time_as_many_come_as_the_rate_says(rate: float) -> None:
    admission = Admission(Limits(accept_rate=rate, accept_burst=10))
    step = 1 / rate / 7
    count = sum(admission.check("", 5 + n * step) is None for n in range(7000))
    assert count == pytest.approx(1010, abs=2)


@pytest.mark.parametrize("start", [0, 1e-9, 1e9, 1e12])
def test_the_first_burst_is_the_same_whatever_the_clock_tells(start: float) -> None:
    admission = Admission(Limits(accept_rate=7, accept_burst=5, accept_rate_per_ip=1))
    assert admitted(admission, "192.0.2.7", start, 9) == 1
    assert admitted(admission, "", start, 9) == 4


# Changing a rate


def test_a_bucket_lacks_as_many_tokens_as_before() -> None:
    admission = Admission(Limits(accept_rate=10, accept_burst=10))
    assert admitted(admission, "", 100, 4) == 4
    admission.change(Limits(accept_rate=1, accept_burst=10), 100)
    assert admitted(admission, "", 100, 20) == 6
    admission.change(Limits(accept_rate=10, accept_burst=20), 100)
    # Ten were lacking, and ten more fit in now.
    assert admitted(admission, "", 100, 20) == 10
    admission.change(Limits(accept_rate=10, accept_burst=5), 100)
    assert admitted(admission, "", 100, 20) == 0
    assert admitted(admission, "", 100.1, 20) == 1


def test_a_bucket_is_full_at_first_when_its_rate_is_new() -> None:
    admission = Admission(Limits(accept_rate=1, accept_rate_per_ip=1))
    assert admission.check("::1", 100) is None
    admission.change(Limits())
    assert admission.check("::1", 100) is None
    admission.change(Limits(accept_rate=1, accept_rate_per_ip=1), 100)
    assert admission.check("::1", 100) is None
    assert admission.check("::1", 100) is RATE_PER_IP


def test_what_came_before_a_change_of_the_rate_is_reckoned_at_the_old_one() -> None:
    limits = Limits(accept_rate=100, accept_burst=100)
    admission = Admission(limits)
    assert admitted(admission, "", 100, 200) == 100
    # It has been full for hours.
    admission.change(Limits(accept_rate=0.001, accept_burst=100), 10_000)
    assert admitted(admission, "", 10_000, 200) == 100


def test_without_a_time_a_change_holds_from_the_last_check_on() -> None:
    admission = Admission(Limits(accept_rate_per_ip=10, accept_burst_per_ip=10))
    assert admitted(admission, "::1", 100, 20) == 10
    admission.change(Limits(accept_rate_per_ip=1, accept_burst_per_ip=10))
    assert admitted(admission, "::1", 102, 20) == 2


def test_a_slower_rate_is_remembered_longer() -> None:
    admission = Admission(Limits(accept_rate_per_ip=10, accept_burst_per_ip=10))
    assert admission.check("192.0.2.9", 100) is None
    assert admitted(admission, "192.0.2.7", 100.9, 20) == 10
    # Now it stands in the generation before.
    assert admission.check("192.0.2.8", 101) is None
    admission.change(Limits(accept_rate_per_ip=0.1, accept_burst_per_ip=10), 101)
    assert admission.check("192.0.2.8", 102.5) is None
    assert admitted(admission, "192.0.2.7", 111, 20) == 2


def test_a_change_of_something_else_leaves_the_buckets_alone() -> None:
    limits = Limits(accept_rate=1, accept_burst=5, accept_rate_per_ip=1)
    admission = Admission(limits)
    assert admission.check("192.0.2.7", 100) is None
    admission.change(replace(limits, max_connections=5, deny=("10.0.0.0/8",)))
    assert admission.check("192.0.2.7", 100.5) is RATE_PER_IP
    assert admitted(admission, "", 100, 9) == 4


# Memory


def test_what_a_crowd_of_addresses_takes_is_bounded() -> None:
    admission = Admission(Limits(accept_rate_per_ip=0.001))
    hosts = [f"2001:db8:{n >> 16:x}:{n & 65535:x}::1" for n in range(2 * GENERATION + 10)]
    tracemalloc.start()
    try:
        for host in hosts:
            assert admission.check(host, 100) is None
        used, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert used < 9_000_000
    # Those who came last are held to the rate; those who came long ago are forgotten.
    for host in hosts[-GENERATION:]:
        assert admission.check(host, 101) is RATE_PER_IP
    assert admission.check(hosts[0], 101) is None


def test_full_buckets_are_forgotten() -> None:
    admission = Admission(Limits(accept_rate_per_ip=0.001))
    admission.check("::1", 99)
    admission.change(Limits())
    admission.change(Limits(accept_rate_per_ip=10))
    for n in range(10_000):
        admission.check(f"192.0.{n >> 8}.{n & 255}", 100 + n)
        assert len(admission._recent) + len(admission._before) <= 4


def test_addresses_without_connections_are_not_counted() -> None:
    admission = Admission(Limits(max_connections_per_ip=1))
    for n in range(1000):
        admission.leave(admission.enter(f"192.0.2.{n & 255}"))
    assert not admission._counts


# Faults


def test_limits_without_a_fault() -> None:
    assert limits_faults(Limits()) == []
    assert (
        limits_faults(Limits(5, 1, 0.5, 3, 1_000_000, 7, ("10.0.0.0/8", "::1"), ("10.0.0.7",)))
        == []
    )


@pytest.mark.parametrize(
    "name",
    ["max_connections", "max_connections_per_ip", "accept_burst", "accept_burst_per_ip"],
)
@pytest.mark.parametrize("value", [-1, 1.5, True, None, "1", math.nan])
def test_bad_counts(name: str, value: object) -> None:
    (sentence,) = limits_faults(Limits(**{name: value}))  # type: ignore[arg-type]
    what = "a second's worth" if "burst" in name else "no limit"
    assert sentence.startswith(f"{name}: expected a whole number, or 0 for {what}, got ")


@pytest.mark.parametrize("name", ["accept_rate", "accept_rate_per_ip"])
@pytest.mark.parametrize("value", [-1, math.nan, math.inf, -math.inf, True, None, "1", 1e-7, 2e6])
def test_bad_rates(name: str, value: object) -> None:
    (sentence,) = limits_faults(Limits(**{name: value}))  # type: ignore[arg-type]
    assert sentence.startswith(
        f"{name}: expected connections a second from 0.000001 to 1000000, or 0 for no limit, got "
    )


def test_every_fault_is_told_at_once_and_changes_nothing() -> None:
    bad = Limits(max_connections=-1, accept_rate=math.nan, allow=("10.0.0.0/33",), deny=("x",))
    assert [sentence.partition(":")[0] for sentence in limits_faults(bad)] == [
        "max_connections", "accept_rate", "allow", "deny",
    ]  # fmt: skip
    with pytest.raises(ValueError, match=r"(?s)^max_connections: .*\nallow: '10.0.0.0/33' is no"):
        Admission(bad)
    admission = Admission(Limits(deny=("192.0.2.7",)))
    with pytest.raises(ValueError, match="accept_rate"):
        admission.change(bad)
    assert admission.check("192.0.2.7", 0) is DENIED
    assert admission.wait(0) == 0


def test_to_deny_all_that_is_allowed_is_a_fault() -> None:
    everybody = ("0.0.0.0/0", "::/0")
    (sentence,) = limits_faults(Limits(allow=("10.0.0.0/8", "::1"), deny=everybody))
    assert sentence.startswith("allow: all of it is in deny, which goes first")
    assert limits_faults(Limits(allow=("10.0.0.0/8", "::1"), deny=everybody[:1])) == []
    # Nobody may come: so be it.
    assert limits_faults(Limits(deny=everybody)) == []


def test_a_refusal_is_a_word() -> None:
    assert [str(one) for one in Refusal] == [
        "denied", "full", "per_ip", "rate_per_ip", "rate", "proxy", "shut",
    ]  # fmt: skip
    assert pickle.loads(pickle.dumps(PER_IP)) is PER_IP


def test_a_token_taken_before_it_is_known_whose_it_is() -> None:
    limits = Limits(accept_rate=1, accept_burst=1, accept_rate_per_ip=1, accept_burst_per_ip=1)
    admission = Admission(limits)
    assert admission.check("", 0) is None
    assert admission.wait(0) > 0
    # Its own rate counts still, the one over all no more.
    assert admission.check("192.0.2.7", 0, overall=False) is None
    assert admission.check("192.0.2.7", 0, overall=False) is Refusal.RATE_PER_IP
    admission.give_back()
    assert admission.wait(0) == 0
    assert admission.check("192.0.2.8", 0) is None
    assert admission.check("192.0.2.9", 0) is Refusal.RATE


# Every order of coming, going and changing


class Bucket:
    """Tokens and the time, as one would write it down."""

    def __init__(self, rate: Fraction, burst: int, now: Fraction) -> None:
        self.rate, self.burst, self.now = rate, burst, now
        self.tokens = Fraction(burst)

    def fill(self, now: Fraction) -> None:
        self.tokens = min(Fraction(self.burst), self.tokens + (now - self.now) * self.rate)
        self.now = now

    def change(self, rate: Fraction, burst: int, now: Fraction) -> None:
        self.fill(now)
        lacking = min(self.burst - self.tokens, Fraction(burst))
        self.rate, self.burst, self.tokens = rate, burst, burst - lacking


class Model:
    """Admission without any cleverness: lists are walked, buckets are kept for ever."""

    def __init__(self, limits: Limits) -> None:
        self.now = Fraction(1000)
        self.inside: list[str] = []
        self.each: dict[str, Bucket] = {}
        self.overall: Bucket | None = None
        self.limits = Limits()
        self.change(limits)

    def change(self, limits: Limits) -> None:
        before, self.limits = self.limits, limits
        rate, burst = Fraction(limits.accept_rate), self.burst(limits, "")
        if not rate:
            self.overall = None
        elif self.overall is None:
            self.overall = Bucket(rate, burst, self.now)
        else:
            self.overall.change(rate, burst, self.now)
        rate, burst = Fraction(limits.accept_rate_per_ip), self.burst(limits, "_per_ip")
        if not rate or not before.accept_rate_per_ip:
            self.each = {}
        for bucket in self.each.values():
            bucket.change(rate, burst, self.now)

    @staticmethod
    def burst(limits: Limits, tail: str) -> int:
        rate: float = getattr(limits, f"accept_rate{tail}")
        burst: int = getattr(limits, f"accept_burst{tail}")
        return burst or max(1, math.ceil(rate))

    @staticmethod
    def key(host: str) -> str:
        address = ipaddress.ip_address(host)
        if isinstance(address, ipaddress.IPv6Address):
            if address.ipv4_mapped:
                return str(address.ipv4_mapped)
            if not address.is_link_local:
                return str(ipaddress.ip_network((address, 64), strict=False))
        return str(address)

    def check(self, host: str) -> Refusal | None:
        buckets: list[tuple[Refusal, Bucket]] = []
        if host:
            address = ipaddress.ip_address(host)
            address = getattr(address, "ipv4_mapped", None) or address

            def listed(networks: tuple[str, ...]) -> bool:
                return any(address in ipaddress.ip_network(one) for one in networks)

            if listed(self.limits.deny) or (self.limits.allow and not listed(self.limits.allow)):
                return DENIED
            key = self.key(host)
            if 0 < self.limits.max_connections_per_ip <= self.inside.count(key):
                return PER_IP
            if self.limits.accept_rate_per_ip:
                if key not in self.each:
                    rate = Fraction(self.limits.accept_rate_per_ip)
                    self.each[key] = Bucket(rate, self.burst(self.limits, "_per_ip"), self.now)
                buckets.append((RATE_PER_IP, self.each[key]))
        if self.overall is not None:
            buckets.append((RATE, self.overall))
        for refusal, bucket in buckets:
            bucket.fill(self.now)
            if bucket.tokens < 1:
                return refusal
        for _, bucket in buckets:
            bucket.tokens -= 1
        return None


hosts = st.sampled_from(
    [
        "", "192.0.2.7", "192.0.2.8", "::ffff:192.0.2.7", "198.51.100.9", "2001:db8::1",
        "2001:db8::2", "2001:db8:0:1::1", "fe80::1", "fe80::2", "::1",
    ]
)  # fmt: skip
lists = st.lists(
    st.sampled_from(["192.0.2.0/29", "192.0.2.8", "2001:db8::/64", "2001:db8::/32", "fe80::/10"]),
    max_size=2,
).map(tuple)
# Such that a second holds a whole number of intervals, which Fraction and nanoseconds both know.
rates = st.sampled_from([0.0, 0.5, 1.0, 2.0, 4.0, 5.0])
few = st.integers(0, 3)
all_limits = st.builds(Limits, few, few, rates, few, rates, few, lists, lists).filter(
    lambda limits: not limits_faults(limits)
)
steps = st.one_of(
    st.tuples(st.just("come"), hosts),
    st.tuples(st.just("come"), hosts),
    st.tuples(st.just("go"), st.integers(0, 100)),
    st.tuples(st.just("wait"), st.sampled_from([1, 100, 125, 200, 250, 500, 1000, 7000, 10**9])),
    st.tuples(st.just("change"), all_limits),
)


@settings(max_examples=300)
@given(all_limits, st.lists(steps, max_size=60))
def test_it_decides_as_the_model_does(
    first: Limits, given_steps: list[tuple[str, str | int | Limits]]
) -> None:
    admission = Admission(first)
    model = Model(first)
    keys: list[tuple[bytes, str]] = []
    for step, value in given_steps:
        now = float(model.now)
        if isinstance(value, Limits):
            admission.change(value, now)
            model.change(value)
        elif isinstance(value, str):
            answer = admission.check(value, now)
            assert answer == model.check(value)
            if answer is None:
                key = admission.enter(value)
                if value:
                    keys.append((key, model.key(value)))
                    model.inside.append(model.key(value))
                else:
                    assert key == b""
        elif step == "go" and keys:
            key, told = keys.pop(value % len(keys))
            admission.leave(key)
            model.inside.remove(told)
        elif step == "wait":
            model.now += Fraction(value, 1000)
        # What the waiting is for is there when it is over, and not before.
        overall = model.overall
        if overall is None:
            assert admission.wait(now) == 0
        else:
            overall.fill(model.now)
            short = max(Fraction(0), (1 - overall.tokens) / overall.rate)
            assert admission.wait(float(model.now)) == pytest.approx(float(short), abs=3e-6)
        assert admission.active == (
            replace(model.limits, max_connections=0, accept_burst=0, accept_burst_per_ip=0)
            != Limits()
        )
        for open_now in range(5):
            assert admission.full(open_now) == (0 < model.limits.max_connections <= open_now)
    for key, _ in keys:
        admission.leave(key)
    assert not admission._counts
