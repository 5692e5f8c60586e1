"""The PROXY protocol: the examples of its specification, and whatever else may come."""

from __future__ import annotations

import ipaddress
import random
import socket
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ginsfsm.net.crc32c import crc32c
from ginsfsm.net.proxy_header import (
    MAX_HEADER,
    NotProxyError,
    ProxyError,
    ProxyHeader,
    ProxyTls,
    SocketAddress,
    Tlv,
    TlvType,
    parse_proxy_header,
)
from ginsfsm.net.proxy_line import MAX_LINE, _ends
from ginsfsm.net.proxy_tlv import MAX_TLVS
from proxy_builder import build_proxy_v1, build_proxy_v2

SIGNATURE = bytes.fromhex("0D0A0D0A 000D0A51 5549540A")


def header_of(data: bytes) -> ProxyHeader:
    """What all of these bytes are."""
    parsed = parse_proxy_header(data)
    assert parsed is not None
    header, size = parsed
    assert size == len(data)
    return header


def v2(command: int, family: int, block: bytes, size: int | None = None) -> bytes:
    """Version 2 by hand."""
    told = len(block) if size is None else size
    return SIGNATURE + bytes([command, family]) + told.to_bytes(2, "big") + block


def tlv(kind: int, value: bytes) -> bytes:
    return bytes([kind]) + len(value).to_bytes(2, "big") + value


INET = bytes.fromhex("C0000201 CB007107 DC04 01BB")
"""192.0.2.1:56324 to 203.0.113.7:443."""

INET6 = bytes.fromhex(
    "20010DB8 00000000 00000000 00000001 20010DB8 00000000 00000000 00000002 DC04 01BB"
)
"""[2001:db8::1]:56324 to [2001:db8::2]:443."""

# -- strategies ------------------------------------------------------------------------------------

ports = st.integers(0, 65535)
ipv4_hosts = st.ip_addresses(v=4).map(str)
# As the system writes them, in particular with a mapped IPv4 address within.
ipv6_hosts = st.one_of(st.binary(min_size=16, max_size=16), st.just(bytes(16))).flatmap(
    lambda packed: st.sampled_from(
        [packed, packed[:4] + bytes(12), bytes(10) + b"\xff\xff" + packed[:4], bytes(15) + b"\1"]
    ).map(lambda one: socket.inet_ntop(socket.AF_INET6, one))
)
ipv4 = st.tuples(ipv4_hosts, ports)
ipv6 = st.tuples(ipv6_hosts, ports, st.just(0), st.just(0))
unix = st.one_of(
    st.text("abc/é\udcff", max_size=36),
    st.text("abc/\0", max_size=30).map(lambda name: "\0" + name + "x"),
)
internet_pairs = st.one_of(st.tuples(ipv4, ipv4), st.tuples(ipv6, ipv6))
pairs = st.one_of(internet_pairs, st.tuples(unix, unix))
words = st.one_of(st.none(), st.text(max_size=20))
tls = st.builds(
    ProxyTls,
    secure=st.booleans(),
    certificate_given=st.booleans(),
    certificate_in_session=st.booleans(),
    verify=st.one_of(st.just(0), st.integers(0, 0xFFFFFFFF)),
    version=words,
    cipher=words,
    cn=words,
    sig_alg=words,
    key_alg=words,
    group=words,
    sig_scheme=words,
    certificate=st.one_of(st.none(), st.binary(max_size=50)),
)
plain_tlvs = st.one_of(
    st.tuples(st.integers(0, 255), st.binary(max_size=20)),
    st.tuples(st.sampled_from([1, 2, 4, 5, 0x30]), st.binary(max_size=20)),
).filter(lambda one: one[0] not in (TlvType.CRC32C, TlvType.TLS))
tlv_lists = st.tuples(
    st.lists(plain_tlvs, max_size=5),
    st.lists(tls.map(lambda one: (int(TlvType.TLS), one.to_value())), max_size=1),
).map(lambda both: [*both[0], *both[1]])


@st.composite
def headers(draw: Any) -> bytes:
    """Any legal header."""
    kind = draw(st.sampled_from(["v1", "v2", "local", "unspec"]))
    if kind == "v1":
        return build_proxy_v1(*draw(st.one_of(internet_pairs, st.just((None, None)))))
    tlvs = draw(tlv_lists)
    checksum = draw(st.booleans())
    if kind == "v2":
        source, destination = draw(pairs)
        datagram = draw(st.booleans())
        return build_proxy_v2(source, destination, datagram=datagram, tlvs=tlvs, checksum=checksum)
    return build_proxy_v2(local=kind == "local", tlvs=tlvs, checksum=checksum)


@st.composite
def damaged(draw: Any) -> bytes:
    """A legal header in which some bytes were changed, and something behind it."""
    data = bytearray(draw(headers()) + draw(st.binary(max_size=10)))
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(data) - 1))
        data[at : at + draw(st.integers(0, 2))] = draw(
            st.one_of(
                st.binary(max_size=2), st.sampled_from([b"0", b" ", b":", b"\r", b"\n", b"."])
            )
        )
    return bytes(data)


# -- any bytes -------------------------------------------------------------------------------------


def bytewise(data: bytes) -> Any:
    """What comes of the bytes one by one: a header, the error and where it came, or nothing yet."""
    for size in range(len(data) + 1):
        try:
            parsed = parse_proxy_header(data[:size])
        except ProxyError as error:
            return type(error), str(error), size
        if parsed is not None:
            assert parsed[1] == size
            return parsed
    return None


def at_once(data: bytes) -> Any:
    try:
        return parse_proxy_header(data)
    except ProxyError as error:
        return type(error), str(error), error.byte


@given(
    st.one_of(
        damaged(),
        headers(),
        st.binary(max_size=300),
        st.binary(max_size=300).map(SIGNATURE.__add__),
        st.binary(max_size=300).map((SIGNATURE + b"\x21\x11").__add__),
        st.binary(max_size=120).map(b"PROXY ".__add__),
        st.text("TCP46 .:01259af\r\n", max_size=60).map(lambda text: b"PROXY " + text.encode()),
        st.text("01259af:. \r\n", max_size=60).map(lambda text: b"PROXY TCP6 " + text.encode()),
        st.text("012 59.\r\n", max_size=60).map(lambda text: b"PROXY TCP4 " + text.encode()),
    )
)
@example(b"")
def test_the_same_comes_of_any_bytes_one_by_one_and_all_at_once(data: bytes) -> None:
    assert bytewise(data) == at_once(data)


@given(headers(), st.binary(max_size=20))
def test_a_header_takes_its_bytes_and_no_fewer(header: bytes, behind: bytes) -> None:
    for size in range(len(header)):
        assert parse_proxy_header(header[:size]) is None
    parsed = parse_proxy_header(header)
    assert parsed is not None
    assert parsed[1] == len(header)
    assert parse_proxy_header(header + behind) == parsed


@given(
    st.one_of(
        damaged(),
        st.text("01259af:. \r\n", max_size=50).map(lambda text: b"PROXY TCP6 " + text.encode()),
        st.text("01259a:.", max_size=45).map(lambda text: b"PROXY TCP6 " + text.encode()),
        st.text("01259.", max_size=15).map(lambda text: b"PROXY TCP4 " + text.encode()),
    )
)
def test_what_is_waited_for_can_still_become_a_line(data: bytes) -> None:
    for size in range(len(data) + 1):
        try:
            if parse_proxy_header(data[:size]) is not None:
                return
        except ProxyError:
            return
        if data[:size].startswith(b"PROXY "):
            wholes = [data[:size] + end for end in _ends(data[:size])]
            assert any(len(one) <= MAX_LINE and _is_header(one) for one in wholes)


def _is_header(data: bytes) -> bool:
    try:
        return parse_proxy_header(data) is not None
    except ProxyError:
        return False


def test_many_random_headers_of_version_2() -> None:
    # Small numbers, so that lengths fit by chance.
    chance = random.Random(4)
    seen = set()
    for _ in range(5000):
        kinds = chance.choices([1, 3, 4, 5, 0x20], k=4)
        block = b"".join(
            bytes([kind, 0, chance.choice([0, 1, 4, 5, 6, 8])])
            + bytes([1, 0, 0, 0, 0, 0x21, 0, 0][: chance.choice([0, 1, 4, 5, 6, 8])])
            for kind in kinds
        )
        command, family = chance.choice([0x20, 0x21]), chance.choice([0, 0x01, 0x11])
        data = v2(command, family, INET + block)
        result = bytewise(data)
        assert result == at_once(data)
        seen.add(type(result[0]))
    assert seen == {ProxyHeader, type}


# -- version 1 -------------------------------------------------------------------------------------


def test_v1_example() -> None:
    line = b"PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n"
    parsed = parse_proxy_header(line + b"GET / HTTP/1.1\r\nHost: 192.168.0.11\r\n\r\n")
    assert parsed == (
        ProxyHeader(
            version=1,
            local=False,
            source=("192.168.0.1", 56324),
            destination=("192.168.0.11", 443),
            transport="tcp4",
            tlvs=(),
        ),
        47,
    )


HEX = b"ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"


@pytest.mark.parametrize(
    ("line", "size", "host"),
    [
        (b"PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n", 56, "255.255.255.255"),
        (b"PROXY TCP6 %b %b 65535 65535\r\n" % (HEX, HEX), 104, HEX.decode()),
        (b"PROXY UNKNOWN\r\n", 15, None),
        (b"PROXY UNKNOWN %b %b 65535 65535\r\n" % (HEX, HEX), 107, None),
    ],
)
def test_v1_longest_lines(line: bytes, size: int, host: str | None) -> None:
    assert len(line) == size
    header = header_of(line)
    assert header.local is (host is None)
    if host is not None:
        assert isinstance(header.source, tuple)
        assert header.source[:2] == (host, 65535)


@pytest.mark.parametrize(
    "rest", [b"", b" ", b"  ", b" TCP4 x", b" \0\xff", b" 1.2.3.4 5.6.7.8 1 2", b" " + b"x" * 91]
)
def test_v1_unknown_ignores_what_stands_behind(rest: bytes) -> None:
    header = header_of(b"PROXY UNKNOWN" + rest + b"\r\n")
    assert header == ProxyHeader(1, True, None, None, "unspec")


@pytest.mark.parametrize(
    ("written", "host"),
    [
        ("::", "::"),
        ("::1", "::1"),
        ("2001:DB8::A", "2001:db8::a"),
        ("2001:0db8:0000:0000:0000:0000:0000:0001", "2001:db8::1"),
        ("1:2:3:4:5:6:7:8", "1:2:3:4:5:6:7:8"),
        ("::ffff:192.0.2.1", "::ffff:192.0.2.1"),
        ("0000:0000:0000:0000:0000:ffff:192.0.2.1", "::ffff:192.0.2.1"),
    ],
)
def test_v1_addresses_come_as_sockets_have_them(written: str, host: str) -> None:
    header = header_of(f"PROXY TCP6 {written} ::1 0 65535\r\n".encode())
    assert header.source == (host, 0, 0, 0)
    assert header.destination == ("::1", 65535, 0, 0)
    assert header.transport == "tcp6"


START4 = b"PROXY TCP4 192.0.2.1 203.0.113.7 "
START6 = b"PROXY TCP6 "
V1_FAULTS = [
    # What is wrong is marked: the byte before the bar cannot be there.
    (b"PROXY  |TCP4", "the protocol"),
    (b"PROXY t|cp4", "the protocol"),
    (b"PROXY TCP5|", "the protocol"),
    (b"PROXY TCP4\t|", "the protocol"),
    (b"PROXY TCP\r|", "the protocol"),
    (b"PROXY \r|", "the protocol"),
    (b"PROXY UNKNOWN\n|", "the protocol"),
    (b"PROXY UNKNOWNX|", "the protocol"),
    (b"PROXY UNKNOWN\rX|", "the protocol"),
    (b"PROXY UNKNOWN x\n|", "the source address"),
    (b"PROXY UNKNOWN x\r\r|", "the source address"),
    (b"PROXY TCP4  |", "the source address"),
    (b"PROXY TCP4 a|", "the source address"),
    (b"PROXY TCP4 :|:1", "the source address"),
    (b"PROXY TCP4 256|.", "the source address"),
    (b"PROXY TCP4 01|", "the source address"),
    (b"PROXY TCP4 1..|", "the source address"),
    (b"PROXY TCP4 1.2.3.4.|", "the source address"),
    (b"PROXY TCP4 1.2.3 |", "the source address"),
    (b"PROXY TCP4 1.2.3.4\r|", "the source address"),
    (b"PROXY TCP4 1.2.3.4 +|", "the destination address"),
    (START6 + b"g|", "the source address"),
    (START6 + b":1|", "the source address"),
    (START6 + b"12345|", "the source address"),
    (START6 + b"1::2::|", "the source address"),
    (START6 + b":::|", "the source address"),
    (START6 + b"1:2:3:4:5:6:7:8:|", "the source address"),
    (START6 + b"1:2 |", "the source address"),
    (START6 + b"1.|", "the source address"),
    (START6 + b"1:2:3.|", "the source address"),
    (START6 + b"::1.2.3.256|", "the source address"),
    (START6 + b"::1%|eth0", "the source address"),
    (START6 + b"1.|2.3.4", "the source address"),
    (START4 + b" |", "the source port"),
    (START4 + b"00|", "the source port"),
    (START4 + b"0443|"[:2] + b"|", "the source port"),
    (START4 + b"-|1", "the source port"),
    (START4 + b"+|1", "the source port"),
    (START4 + b"65536|", "the source port"),
    (START4 + b"100000|", "the source port"),
    (START4 + b"1\r|", "the source port"),
    (START4 + b"1 \r|", "the destination port"),
    (START4 + b"1 01|", "the destination port"),
    (START4 + b"1 2 |", "the destination port"),
    (START4 + b"1 2\n|", "the destination port"),
    (START4 + b"1 2\r\r|", "the destination port"),
    (START4 + b"1 2\rx|", "the destination port"),
    (START4 + b"1 65536|", "the destination port"),
]


@pytest.mark.parametrize(("marked", "field"), V1_FAULTS)
def test_v1_is_refused_at_the_first_byte_that_cannot_be(marked: bytes, field: str) -> None:
    good, behind = marked.split(b"|")
    for data in (good, good + behind, good + b" 1.2.3.4 1 2\r\n"):
        with pytest.raises(ProxyError) as caught:
            parse_proxy_header(data)
        assert caught.value.byte == len(good)
        assert str(caught.value).startswith(
            f"byte {len(good)}: {good[-1:]!r} cannot stand there in a line of version 1, in {field}"
        )
        assert not isinstance(caught.value, NotProxyError)
    assert parse_proxy_header(good[:-1]) is None


@pytest.mark.parametrize(
    "line",
    [
        b"PROXY UNKNOWN " + b"x" * 92 + b"\r\n",
        # Twice a mapped address with all its zeros, which version 1 was not made for.
        START6
        + b" ".join([b"0000:0000:0000:0000:0000:ffff:255.255.255.255"] * 2)
        + b" 65535 1\r\n",
    ],
)
def test_v1_of_more_than_107_bytes(line: bytes) -> None:
    assert len(line) > 107
    with pytest.raises(ProxyError, match="a line of version 1 is longer than 107 bytes") as caught:
        parse_proxy_header(line)
    assert parse_proxy_header(line[: caught.value.byte - 1]) is None


@given(host=st.text("0123456789.", min_size=1, max_size=16))
@example("1.2.3.4")
@example("0.0.0.0")
@example("01.2.3.4")
@example("1.2.3.4.")
def test_v1_takes_the_addresses_of_ipv4_and_no_others(host: str) -> None:
    legal = True
    try:
        ipaddress.IPv4Address(host)
    except ValueError:
        legal = False
    assert _is_header(f"PROXY TCP4 {host} {host} 1 2\r\n".encode()) is legal


@given(
    host=st.lists(
        st.sampled_from(["1", "ab", "00ff", "12345", ":", "::", ":", "1.2.3.4", "."]), max_size=16
    ).map("".join)
)
@example("1:2:3:4:5:6:7:8")
@example("::1:2:3:4:5:6:7")
@example("1:2:3:4:5:6:1.2.3.4")
def test_v1_takes_the_addresses_of_ipv6_and_no_others(host: str) -> None:
    legal = True
    try:
        ipaddress.IPv6Address(host)
    except ValueError:
        legal = False
    assert _is_header(f"PROXY TCP6 {host} ::1 1 2\r\n".encode()) is (legal and len(host) <= 45)


# -- version 2 -------------------------------------------------------------------------------------


def test_v2_tcp4() -> None:
    data = bytes.fromhex(
        "0D0A0D0A000D0A515549540A"  # the signature
        "21"  # version 2, PROXY
        "11"  # TCP over IPv4
        "000C"  # 12 bytes
        "C0000201"  # 192.0.2.1
        "CB007107"  # 203.0.113.7
        "DC04"  # 56324
        "01BB"  # 443
    )
    assert parse_proxy_header(data + b"data") == (
        ProxyHeader(
            version=2,
            local=False,
            source=("192.0.2.1", 56324),
            destination=("203.0.113.7", 443),
            transport="tcp4",
            tlvs=(),
        ),
        28,
    )


def test_v2_tcp6() -> None:
    header = header_of(v2(0x21, 0x21, INET6))
    assert header.transport == "tcp6"
    assert header.source == ("2001:db8::1", 56324, 0, 0)
    assert header.destination == ("2001:db8::2", 443, 0, 0)


def test_v2_mapped_addresses_are_left_as_they_are() -> None:
    mapped = bytes(10) + b"\xff\xff" + bytes([192, 0, 2, 1])
    header = header_of(v2(0x21, 0x21, mapped + mapped + bytes(4)))
    assert header.source == ("::ffff:192.0.2.1", 0, 0, 0)
    assert header.transport == "tcp6"


def test_v2_datagrams() -> None:
    assert header_of(v2(0x21, 0x12, INET)).transport == "udp4"
    assert header_of(v2(0x21, 0x22, INET6)).transport == "udp6"


@pytest.mark.parametrize(
    ("raw", "name"),
    [
        (b"/run/a.sock", "/run/a.sock"),
        # What stands behind the end of a path is what was in the sender's memory.
        (b"/run/a.sock\0garbage", "/run/a.sock"),
        (b"", ""),
        (b"\0name", "\0name"),
        (b"\0na\0me", "\0na\0me"),
        (b"/" * 108, "/" * 108),
        ("/é".encode(), "/é"),
        (b"/\xe9", "/\udce9"),
    ],
)
def test_v2_unix(raw: bytes, name: str) -> None:
    header = header_of(v2(0x21, 0x31, raw.ljust(108, b"\0") + b"/server".ljust(108, b"\0")))
    assert header == ProxyHeader(2, False, name, "/server", "unix")
    assert header_of(v2(0x21, 0x32, bytes(216))).transport == "unixgram"


def test_v2_local_without_anything() -> None:
    assert header_of(bytes.fromhex("0D0A0D0A000D0A515549540A 20 00 0000")) == ProxyHeader(
        2, True, None, None, "unspec"
    )


@pytest.mark.parametrize("family", [0x00, 0x11, 0x21, 0x31, 0x33, 0x99, 0xFF])
@pytest.mark.parametrize("block", [b"", b"\0", INET, bytes(12), b"junk" * 5])
def test_v2_local_ignores_family_and_addresses(family: int, block: bytes) -> None:
    header = header_of(v2(0x20, family, block))
    assert header.local
    assert (header.source, header.destination, header.transport) == (None, None, "unspec")


@pytest.mark.parametrize("family", [0x00, 0x01, 0x02, 0x10, 0x20, 0x30])
@pytest.mark.parametrize("block", [b"", INET, b"junk"])
def test_v2_unspecified_keeps_the_real_addresses(family: int, block: bytes) -> None:
    header = header_of(v2(0x21, family, block))
    assert header.local
    assert (header.source, header.destination, header.transport) == (None, None, "unspec")


def test_v2_tlvs_of_local_are_read_where_there_are_some() -> None:
    unique = tlv(5, b"check")
    assert header_of(v2(0x20, 0x00, unique)).unique_id == b"check"
    # A balancer of a cloud: dummies as addresses.
    assert header_of(v2(0x20, 0x11, bytes(12) + unique)).unique_id == b"check"
    assert header_of(v2(0x21, 0x00, unique)).unique_id == b"check"
    # Nobody knows where they begin.
    assert header_of(v2(0x20, 0x99, unique)).tlvs == ()
    assert header_of(v2(0x21, 0x10, unique)).tlvs == ()
    # No TLVs, only nearly.
    assert header_of(v2(0x20, 0x00, unique + b"\1")).tlvs == ()
    assert header_of(v2(0x20, 0x00, tlv(3, b"crc"))).tlvs == ()


@pytest.mark.parametrize(
    ("data", "byte", "sentence"),
    [
        (v2(0x11, 0x11, INET), 13, "0x11 is version 1 and command 1, expected version 2"),
        (v2(0x31, 0x11, INET), 13, "0x31 is version 3 and command 1, expected version 2"),
        (v2(0x22, 0x11, INET), 13, "0x22 is version 2 and command 2, expected version 2 and co"),
        (v2(0x21, 0x41, INET), 14, "0x41 is address family 4 and protocol 1, expected 0 to 3"),
        (v2(0x21, 0x13, INET), 14, "0x13 is address family 1 and protocol 3, expected 0 to 3"),
        (v2(0x21, 0x11, INET, 0x1000), 15, "a header of 4112 bytes or more, expected 4096 at most"),
        (v2(0x20, 0x00, INET, 0x0FF1), 16, "a header of 4097 bytes or more, expected 4096 at most"),
        (v2(0x21, 0x11, INET[:-1]), 16, "11 bytes follow, expected 12 of addresses"),
        (v2(0x21, 0x21, INET), 16, "12 bytes follow, expected 36 of addresses"),
        (v2(0x21, 0x31, INET), 16, "12 bytes follow, expected 216 of addresses"),
        (v2(0x21, 0x11, INET + b"\4\0"), 16, "14 bytes follow, expected 12 of addresses, alone or"),
        (v2(0x21, 0x11, INET + b"\4\0\1"), 31, "a TLV of type 0x04 with 1 bytes or more, where "),
        (v2(0x21, 0x11, INET + b"\1\1\0x"), 30, "a TLV of type 0x01 with 256 bytes or more, whe"),
        (v2(0x21, 0x11, INET + b"\1\0\1xy"), 31, "a TLV of type 0x01 with 1 bytes leaves 1 of th"),
        (v2(0x21, 0x11, INET + tlv(3, b"crc")), 31, "a TLV of type 0x03 with 3 bytes, expected 4"),
        (v2(0x21, 0x11, INET + tlv(5, bytes(129))), 31, "a TLV of type 0x05 with 129 bytes, exp"),
        (v2(0x21, 0x11, INET + tlv(0x20, bytes(4))), 31, "a TLV of type 0x20 with 4 bytes, expec"),
        (v2(0x21, 0x11, INET + tlv(0x20, bytes(6))), 31, "a TLV of type 0x20 with 6 bytes, expec"),
        (
            v2(0x21, 0x11, INET + tlv(0x20, bytes(5) + b"\x21\0\2x") + tlv(1, b"")),
            39,
            "a TLV of type 0x21 with 2 bytes or more, where there is room for 1",
        ),
        (
            v2(0x21, 0x11, INET + 2 * tlv(0x20, bytes(5))),
            39,
            "a second TLV of type 0x20, expected one at most",
        ),
        (
            v2(0x21, 0x11, INET + 2 * tlv(3, bytes(4))),
            38,
            "a second TLV of type 0x03, expected one at most",
        ),
        (
            v2(0x21, 0x11, INET + tlv(3, bytes(4))),
            35,
            "the header says CRC32c 0x00000000, and it is 0x",
        ),
        (
            v2(0x21, 0x11, INET + (MAX_TLVS + 1) * tlv(1, b"")),
            29 + 3 * MAX_TLVS,
            "more than 64 TLVs, which is the server's own limit",
        ),
    ],
)
def test_v2_is_refused_at_the_first_byte_that_cannot_be(
    data: bytes, byte: int, sentence: str
) -> None:
    for size in range(byte, len(data) + 1):
        with pytest.raises(ProxyError) as caught:
            parse_proxy_header(data[:size])
        assert caught.value.byte == byte
        assert str(caught.value).startswith(f"byte {byte}: {sentence}")
        assert not isinstance(caught.value, NotProxyError)
    assert parse_proxy_header(data[: byte - 1]) is None


def test_v2_of_the_longest_size() -> None:
    filled = INET + tlv(4, bytes(MAX_HEADER - 16 - 12 - 3))
    data = v2(0x21, 0x11, filled)
    assert len(data) == MAX_HEADER
    assert header_of(data).tlvs == ()


def test_v2_checksum() -> None:
    data = bytes.fromhex(
        "0D0A0D0A000D0A515549540A 21 11 001E"  # 30 bytes
        "C0000201 CB007107 DC04 01BB"
        "01 0002 6832"  # ALPN: h2
        "03 0004 44D9D34A"  # CRC32c
        "04 0003 000000"  # NOOP
    )
    made = crc32c(data[:36] + bytes(4) + data[40:])
    assert made == 0x44D9D34A
    assert header_of(data).tlvs == ((1, b"h2"), (3, data[36:40]))
    for at in range(16, len(data)):
        # That byte says that there is a checksum.
        if at != 33:
            changed = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
            with pytest.raises(ProxyError):
                parse_proxy_header(changed)
    # Also where nothing of the header is used: it may be its length that was damaged.
    wrong = v2(0x20, 0, tlv(3, bytes(4)))
    with pytest.raises(ProxyError, match="the header says CRC32c 0x00000000, and it is"):
        parse_proxy_header(wrong)


def test_v2_tlvs() -> None:
    value = bytes.fromhex("07 00000000") + b"".join(
        [
            tlv(0x21, b"TLSv1.3"),
            tlv(0x22, b"client.example"),
            tlv(0x23, b"TLS_AES_128_GCM_SHA256"),
            tlv(0x24, b"RSA-SHA256"),
            tlv(0x25, b"RSA2048"),
            tlv(0x26, b"x25519"),
            tlv(0x27, b"rsa_pss_rsae_sha256"),
            tlv(0x28, b"\x30\x03\x02\x01\x01"),
        ]
    )
    block = [
        tlv(4, b"filler"),
        tlv(1, b"h2"),
        tlv(2, b"www.example.com"),
        tlv(2, b"second.example"),
        tlv(5, b"\x00id"),
        tlv(0x20, value),
        tlv(0x30, b"blue"),
        tlv(0xE0, b"own"),
        tlv(4, b""),
    ]
    header = header_of(v2(0x21, 0x11, INET + b"".join(block)))
    assert [kind for kind, _ in header.tlvs] == [1, 2, 2, 5, 0x20, 0x30, 0xE0]
    assert header.alpn == "h2"
    assert header.authority == "www.example.com"
    assert header.unique_id == b"\x00id"
    assert header.netns == "blue"
    assert header.tlv(0xE0) == b"own"
    assert header.tlv(0xE1) is None
    assert header.tls == ProxyTls(
        secure=True,
        certificate_given=True,
        certificate_in_session=True,
        verify=0,
        version="TLSv1.3",
        cipher="TLS_AES_128_GCM_SHA256",
        cn="client.example",
        sig_alg="RSA-SHA256",
        key_alg="RSA2048",
        group="x25519",
        sig_scheme="rsa_pss_rsae_sha256",
        certificate=b"\x30\x03\x02\x01\x01",
    )
    assert header.tls.verified


def test_without_tlvs_nothing_is_known() -> None:
    header = header_of(v2(0x21, 0x11, INET))
    assert (header.alpn, header.authority, header.unique_id, header.netns) == (None,) * 4
    assert header.tls is None


@pytest.mark.parametrize(
    ("flags", "verify", "verified"),
    [
        (0x01, 0, False),  # No certificate: what some proxies send.
        (0x01, 1, False),
        (0x03, 0, True),
        (0x05, 0, True),
        (0x07, 10, False),
    ],
)
def test_a_client_without_a_certificate_is_not_verified(
    flags: int, verify: int, verified: bool
) -> None:
    told = ProxyTls.from_value(bytes([flags]) + verify.to_bytes(4, "big"))
    assert told.verified is verified
    assert told.verify == verify
    assert told.secure
    assert told.cn is None


def test_a_text_that_is_no_utf_8_is_shown() -> None:
    data = v2(0x21, 0x11, INET + tlv(2, b"caf\xe9") + tlv(1, "é".encode()))
    assert header_of(data).authority == r"caf\xe9"
    assert header_of(data).alpn == "é"


@pytest.mark.parametrize("value", [b"", bytes(4), bytes(6), bytes(5) + b"\x21\0\1"])
def test_malformed_tls(value: bytes) -> None:
    with pytest.raises(ProxyError):
        ProxyTls.from_value(value)


# -- no header -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "byte"),
    [
        (b"GET / HTTP/1.1\r\n", 1),
        (b"POST / HTTP/1.1\r\n", 2),
        (b"PROPFIND / HTTP/1.1\r\n", 4),
        (b"PROXY\r\n", 6),
        (b"proxy TCP4", 1),
        (b"\x16\x03\x01\x02\x00", 1),
        (b"\r\n\r\n\r\n", 5),
        (b"\r\n\r\n\0\r\nQUIT\r\n", 12),
        (b"\0", 1),
    ],
)
def test_another_protocol_is_told_at_once(data: bytes, byte: int) -> None:
    with pytest.raises(NotProxyError, match=r"is not the beginning of a PROXY header") as caught:
        parse_proxy_header(data)
    assert caught.value.byte == byte
    assert parse_proxy_header(data[: byte - 1]) is None


def test_the_whole_sentence() -> None:
    with pytest.raises(NotProxyError) as caught:
        parse_proxy_header(b"EHLO mail.example\r\n")
    assert str(caught.value) == (
        "byte 1: 0x45 is not the beginning of a PROXY header: has the proxy been told to send one "
        "(in HAProxy, send-proxy or send-proxy-v2), or did a client come without it?"
    )


# -- building --------------------------------------------------------------------------------------


@given(internet_pairs)
def test_v1_comes_back(pair: tuple[SocketAddress, SocketAddress]) -> None:
    header = header_of(build_proxy_v1(*pair))
    assert (header.version, header.local) == (1, False)
    assert (header.source, header.destination) == pair
    assert header.transport == ("tcp4" if len(pair[0]) == 2 else "tcp6")


def test_v1_as_built() -> None:
    assert build_proxy_v1() == b"PROXY UNKNOWN\r\n"
    assert (
        build_proxy_v1(("192.168.0.1", 56324), ("192.168.0.11", 443))
        == b"PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n"
    )
    # An address of IPv6 may come without its flow and scope, or with its interface.
    assert (
        build_proxy_v1(("fe80::1%eth0", 1, 0, 2), ("FE80::2", 65535))
        == b"PROXY TCP6 fe80::1 fe80::2 1 65535\r\n"
    )


@given(pair=pairs, datagram=st.booleans(), tlvs=tlv_lists, checksum=st.booleans())
def test_v2_comes_back(
    pair: tuple[SocketAddress, SocketAddress], datagram: bool, tlvs: list[Tlv], checksum: bool
) -> None:
    data = build_proxy_v2(*pair, datagram=datagram, tlvs=tlvs, checksum=checksum)
    header = header_of(data)
    assert (header.version, header.local) == (2, False)
    assert (header.source, header.destination) == pair
    assert header.transport.startswith(
        "unix" if isinstance(pair[0], str) else "udp" if datagram else "tcp"
    )
    told = [one for one in tlvs if one[0] != TlvType.NOOP]
    assert list(header.tlvs[checksum:]) == told
    assert (header.tlv(TlvType.CRC32C) is not None) == checksum
    assert isinstance(hash(header), int)


@given(local=st.booleans(), tlvs=tlv_lists, checksum=st.booleans())
def test_v2_without_addresses_comes_back(local: bool, tlvs: list[Tlv], checksum: bool) -> None:
    data = build_proxy_v2(local=local, tlvs=tlvs, checksum=checksum)
    assert data[12:14] == bytes([0x20 if local else 0x21, 0])
    header = header_of(data)
    assert header.local
    assert header.source is None
    assert list(header.tlvs[checksum:]) == [one for one in tlvs if one[0] != TlvType.NOOP]


@given(tls)
def test_tls_comes_back(told: ProxyTls) -> None:
    assert ProxyTls.from_value(told.to_value()) == told


@given(headers(), st.integers(0, 400), st.integers(1, 255))
def test_a_checksum_finds_one_changed_byte(header: bytes, at: int, change: int) -> None:
    parsed = parse_proxy_header(header)
    assert parsed is not None
    if parsed[0].tlv(TlvType.CRC32C) is None or not 16 <= at < len(header):
        return
    changed = header[:at] + bytes([header[at] ^ change]) + header[at + 1 :]
    try:
        found = parse_proxy_header(changed)
    except ProxyError:
        return
    # Unless the change took away the checksum itself.
    assert found is not None
    assert found[0].tlv(TlvType.CRC32C) is None


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((("192.0.2.1", 1), None), r"None was given, expected a numeric address and a port as in"),
        ((None, ("192.0.2.1", 1)), r"None was given, expected a numeric address and a port as in"),
        ((("localhost", 1), ("::1", 2)), r"\('localhost', 1\) was given, expected a numeric addr"),
        ((("192.0.2.1", 65536), ("192.0.2.1", 1)), r"65536\) was given, expected a numeric addre"),
        ((("192.0.2.1", -1), ("192.0.2.1", 1)), r"-1\) was given, expected a numeric address and"),
        ((("192.0.2.1",), ("192.0.2.1", 1)), r"\('192.0.2.1',\) was given, expected a numeric ad"),
        ((("::\0", 1), ("::1", 1)), r"was given, expected a numeric address and a port as in \("),
        ((("192.0.2.1", 1), ("::1", 2)), r"expected two addresses of one family; that of IPv4 ca"),
        (("/path", ("::1", 2)), r"'/path' and \('::1', 2\) were given, expected two addresses of"),
        (("x" * 109, "/path"), r"a path of 109 bytes was given, expected 108 at most"),
    ],
)
def test_addresses_that_are_no_pair(arguments: Any, sentence: str) -> None:
    for build in (build_proxy_v1, build_proxy_v2):
        with pytest.raises(ProxyError, match=sentence) as caught:
            build(*arguments)
        assert caught.value.byte == 0


def test_v1_tells_no_unix_sockets() -> None:
    with pytest.raises(ProxyError, match="a Unix socket, which version 1 cannot tell: take ver"):
        build_proxy_v1("/a", "/b")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"source": ("::1", 1), "destination": ("::1", 2), "local": True}, "LOCAL has none, leave"),
        ({"datagram": True}, "datagram=True was given without addresses"),
        ({"tlvs": [(3, bytes(4))]}, "a TLV of type 3 was given, the CRC32c: give checksum=True"),
        ({"tlvs": [(256, b"")]}, "a TLV of type 256 with 0 bytes was given"),
        ({"tlvs": [(-1, b"")]}, "a TLV of type -1 with 0 bytes was given"),
        ({"tlvs": [(1, bytes(65536))]}, "a TLV of type 1 with 65536 bytes was given"),
        ({"tlvs": [(1, bytes(65535))]}, "65538 bytes of addresses and TLVs, expected 65535"),
        ({"tlvs": [(5, bytes(129))]}, "a TLV of type 0x05 with 129 bytes, expected 0 to 128"),
        ({"tlvs": [(0x20, bytes(4))]}, "a TLV of type 0x20 with 4 bytes, expected 5 to 65535"),
        ({"tlvs": [(0x20, bytes(6))]}, "a TLV of type 0x20 with 6 bytes, expected 5, alone or"),
    ],
)
def test_headers_that_cannot_be_built(options: Any, sentence: str) -> None:
    with pytest.raises(ProxyError, match=sentence):
        build_proxy_v2(**options)


def test_tls_that_cannot_be_built() -> None:
    with pytest.raises(ProxyError, match="verify=-1 was given, expected a number of 32 bits"):
        ProxyTls(verify=-1).to_value()
    with pytest.raises(ProxyError, match="a TLV of type 34 with 65536 bytes was given"):
        ProxyTls(cn="x" * 65536).to_value()
