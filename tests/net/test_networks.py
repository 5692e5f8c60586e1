"""Networks: what people write becomes sets, and a peer is in them exactly where it should be."""

from __future__ import annotations

import ipaddress
import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ginsfsm.net.networks import Network, Networks, packed_address, read_networks

MAPPED = bytes(10) + b"\xff\xff"
"""How an IPv6 address begins that is one of IPv4."""

IPv4Or6 = ipaddress.IPv4Network | ipaddress.IPv6Network

# Few bits that differ, so that addresses often fall into networks.
sparse4 = st.integers(0, 255).map(lambda n: (n & 0xF0) << 24 | (n & 0x0F))
sparse6 = st.integers(0, 255).map(lambda n: 0x2001 << 112 | (n & 0xF0) << 68 | (n & 0x0F))


@st.composite
def networks(draw: st.DrawFn) -> IPv4Or6:
    if draw(st.booleans()):
        return ipaddress.IPv4Network((draw(sparse4), draw(st.integers(0, 32))), strict=False)
    return ipaddress.IPv6Network((draw(sparse6), draw(st.integers(0, 128))), strict=False)


addresses = st.one_of(sparse4.map(ipaddress.IPv4Address), sparse6.map(ipaddress.IPv6Address))


def read(*texts: str) -> Networks:
    found, faults = read_networks("allow", texts)
    assert faults == []
    return Networks(found)


def fault(text: object) -> str:
    found, (sentence,) = read_networks("deny", [text])
    assert found == []
    return sentence


@given(st.lists(networks(), max_size=8), st.lists(addresses, max_size=20))
def test_an_address_is_in_it_where_it_is_in_one_of_the_networks(
    given_networks: list[IPv4Or6],
    given_addresses: list[ipaddress.IPv4Address | ipaddress.IPv6Address],
) -> None:
    found = read(*map(str, given_networks))
    assert len(found) == len(set(given_networks))
    assert bool(found) == bool(given_networks)
    for address in given_addresses:
        assert (packed_address(str(address)) in found) == any(
            address in network for network in given_networks
        )


@given(st.lists(networks(), max_size=5), networks())
def test_a_network_is_covered_where_it_is_within_one_of_them(
    wide: list[IPv4Or6], narrow: IPv4Or6
) -> None:
    (network,), _ = read_networks("allow", [str(narrow)])
    assert read(*map(str, wide)).covers(network) == any(
        one.supernet_of(narrow)  # type: ignore[arg-type]
        for one in wide
        if one.version == narrow.version
    )


@given(st.text("0123456789abf.:/%[]*x \n", max_size=20))
@example("::ffff:0.0.0.0")
@example("::ffff:0:0/96")
def test_reads_no_more_and_no_less_than_the_standard_library(text: str) -> None:
    found, faults = read_networks("allow", [text])
    try:
        wanted = ipaddress.ip_network(text)
    except ValueError:
        wanted = None
    if wanted is None or "%" in text:
        assert found == []
        assert len(faults) == 1
        assert faults[0].startswith("allow: ")
    else:
        assert faults == []
        packed, length = wanted.network_address.packed, wanted.prefixlen
        if packed.startswith(MAPPED) and length >= 96:
            # What it means is a network of IPv4.
            packed, length = packed[12:], length - 96
        assert found == [Network(packed, length)]


def test_an_address_alone_is_a_network_of_one() -> None:
    assert packed_address("192.0.2.7") in read("192.0.2.7")
    assert packed_address("192.0.2.8") not in read("192.0.2.7")
    assert packed_address("2001:db8::7") in read("2001:db8::7")
    assert packed_address("2001:db8::8") not in read("2001:db8::7")


@pytest.mark.parametrize("text", ["10.0.0.0/255.0.0.0", "10.0.0.0/0.255.255.255", "10.0.0.0/08"])
def test_masks_of_old_systems_are_taken(text: str) -> None:
    assert packed_address("10.255.0.1") in read(text)
    assert packed_address("11.0.0.1") not in read(text)


def test_ipv4_is_the_same_in_the_form_of_ipv6() -> None:
    assert packed_address("::ffff:10.1.2.3") == packed_address("10.1.2.3")
    assert packed_address("::ffff:10.1.2.3") in read("10.0.0.0/8")
    assert packed_address("10.1.2.3") in read("::ffff:10.0.0.0/104")
    assert packed_address("10.1.2.3") in read("::ffff:0:0/96")
    assert packed_address("10.1.2.3") not in read("::/0")
    assert packed_address("::1") not in read("0.0.0.0/0")


def test_the_zone_of_a_peer_does_not_matter() -> None:
    assert packed_address("fe80::7%eth0") in read("fe80::/64")


@pytest.mark.parametrize("host", ["", "localhost", "10.0.0", "10.0.0.1/8", "::g", "a\0b", "\ud800"])
def test_a_host_that_is_no_address_is_an_error(host: str) -> None:
    with pytest.raises(ValueError, match="expected the address of a peer"):
        packed_address(host)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("10.0.0.0/33", "after the slash expected a number from 0 to 32, got '33'"),
        ("10.0.0.0/", "after the slash expected a number from 0 to 32, got ''"),
        ("0.0.0.0/٣", "after the slash expected a number from 0 to 32, got '٣'"),
        ("2001:db8::/129", "after the slash expected a number from 0 to 128, got '129'"),
        ("fe80::%eth0/64", "leave out the zone, '%eth0'"),
        ("localhost", "a host name says nothing about an address; give its addresses"),
        ("*", "everybody is '0.0.0.0/0' and '::/0', or for allow an empty list"),
    ],
)
def test_what_is_no_network_is_told_with_the_reason(text: str, why: str) -> None:
    assert fault(text) == f"deny: {text!r} is no network: {why}"


@pytest.mark.parametrize(
    ("text", "length", "network", "address"),
    [
        ("10.0.0.1/8", 8, "10.0.0.0/8", "10.0.0.1"),
        ("10.0.0.0/0", 0, "0.0.0.0/0", "10.0.0.0"),
        ("10.1.2.3/255.255.0.0", 16, "10.1.0.0/16", "10.1.2.3"),
        ("2001:db8::1/32", 32, "2001:db8::/32", "2001:db8::1"),
    ],
)
def test_bits_after_the_prefix_leave_open_what_was_meant(
    text: str, length: int, network: str, address: str
) -> None:
    assert fault(text) == (
        f"deny: {text!r} is no network: it has bits set after the first {length}; for the network "
        f"write '{network}', for the one address '{address}'"
    )
    assert read(network, address)


def test_what_was_given_is_told_in_few_words() -> None:
    assert len(fault("10.0.0.0/" + "9" * 5000)) < 200
    assert len(fault("x" * 5000)) < 200


@pytest.mark.parametrize("text", ["10.0.0.1-10.0.0.9", "010.0.0.0/8", "10.*.1.2", "::g", "a b"])
def test_what_comes_near_to_nothing_is_told_with_examples(text: str) -> None:
    assert fault(text).endswith(
        "is no network: expected an address or a network, such as '192.0.2.7', '10.0.0.0/8' or "
        "'2001:db8::/32'"
    )


@pytest.mark.parametrize("value", [7, None, b"10.0.0.0/8", ipaddress.ip_network("10.0.0.0/8")])
def test_what_is_no_text_is_no_network(value: object) -> None:
    assert fault(value).startswith("deny: expected the text of a network, such as '192.0.2.7', ")


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("10.0.0.0/8\n", "10.0.0.0/8"),
        (" 10.0.0.7", "10.0.0.7"),
        ("10.0.0/8", "10.0.0.0/8"),
        ("10.1", "10.1.0.0/16"),
        ("10.", "10.0.0.0/8"),
        ("10.1.*.*", "10.1.0.0/16"),
        ("[2001:db8::7]", "2001:db8::7"),
        ("[2001:db8::7]:7000", "2001:db8::7"),
        ("10.0.0.7:7000", "10.0.0.7"),
    ],
)
def test_what_comes_near_to_a_network_is_told_with_what_was_meant(text: str, meant: str) -> None:
    assert fault(text) == f"deny: {text!r} is no network; did you mean '{meant}'?"
    assert read(meant)


@pytest.mark.parametrize(
    ("texts", "tail"),
    [
        ("10.0.0.0/8", "got '10.0.0.0/8' (str); write ['10.0.0.0/8']"),
        ("", "got '' (str)"),
        (None, "got None"),
    ],
)
def test_a_list_is_expected(texts: object, tail: str) -> None:
    assert read_networks("allow", texts) == (
        [],
        [f"allow: expected networks in a list, {tail}"],
    )


def test_of_thousands_of_faults_a_few_are_told() -> None:
    found, faults = read_networks("deny", ["10.0.0.0/8", *("no",) * 5000])
    assert len(found) == 1
    assert len(faults) == 11
    assert faults[-1] == "deny: 4990 more are no networks"


def test_thousands_of_networks_are_asked_as_fast_as_one() -> None:
    found = Networks(Network((n << 8 | (10 << 24)).to_bytes(4), 24 + n % 9) for n in range(1 << 16))
    absent = packed_address("192.0.2.7")
    began = time.thread_time()
    for _ in range(1000):
        assert absent not in found
    # A walk from one to the next takes seconds.
    assert time.thread_time() - began < 0.5
