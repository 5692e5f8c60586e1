"""Socket options by name: which there are, and what is wrong with the others."""

import socket

import pytest

from ginsfsm.net.socket_options import (
    RESERVED,
    OptionError,
    options_faults,
    read_options,
    set_socket_options,
)


def test_texts_become_bytes() -> None:
    assert read_options({"TCP_CONGESTION": "reno", "SO_RCVBUF": 1}) == (
        ("TCP_CONGESTION", b"reno"),
        ("SO_RCVBUF", 1),
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SO_RCVBUF", 65536),
        ("TCP_CONGESTION", b"reno"),
        ("IP_TOS", 16),
        ("IPV6_TCLASS", 32),
        ("6:13", b"reno"),
        ("SO_MARK", -1),
    ],
)
def test_no_fault(name: str, value: object) -> None:
    assert list(options_faults([(name, value)])) == []


@pytest.mark.parametrize(
    ("name", "value", "fault"),
    [
        ("SO_RCVBUFF", 1, "no socket option 'SO_RCVBUFF' on this system; did you mean 'SO_RCVBUF"),
        ("so_rcvbuf", 1, "no socket option 'so_rcvbuf' on this system; did you mean 'SO_RCVBUF'"),
        ("", 1, "no socket option '' on this system; expected a name such as SO_RCVBUF or"),
        (7, 1, "no socket option 7 on this system"),
        ("AF_INET", 1, "no socket option 'AF_INET' on this system"),
        ("IP_DEFAULT_MULTICAST_TTL", 1, "no socket option 'IP_DEFAULT_MULTICAST_TTL'"),
        ("1:", 1, "no socket option '1:' on this system"),
        ("SO_RCVBUF", 1.5, "SO_RCVBUF: expected an int, or bytes, got 1.5 (float)"),
        ("SO_RCVBUF", True, "SO_RCVBUF: expected an int, or bytes, got True (bool); give 1"),
        (
            "SO_BROADCAST",
            False,
            "SO_BROADCAST: expected an int, or bytes, got False (bool); give 0",
        ),
        ("SO_RCVBUF", None, "SO_RCVBUF: expected an int, or bytes, got None"),
        ("SO_RCVBUF", 1 << 31, "SO_RCVBUF: expected an int of 32 bits, got 2147483648"),
        ("SO_REUSEPORT", 1, "SO_REUSEPORT cannot be set here: give the parameter reuse_port"),
        # The same by its numbers.
        ("1:15", 1, "1:15 cannot be set here: give the parameter reuse_port"),
    ],
)
def test_fault(name: object, value: object, fault: str) -> None:
    (found,) = options_faults([(name, value)])
    assert found.startswith(fault)


@pytest.mark.parametrize("name", sorted(RESERVED))
def test_what_the_library_relies_on_has_another_way(name: str) -> None:
    (found,) = options_faults([(name, 1)])
    assert found == f"{name} cannot be set here: {RESERVED[name]}"


def test_of_a_unix_socket() -> None:
    (found,) = options_faults([("SO_RCVBUF", 1), ("IP_TOS", 1)], is_unix=True)
    assert found == "IP_TOS is none of a Unix socket: only those that begin with SO_ are"


def test_set() -> None:
    with socket.socket() as sock:
        set_socket_options(sock, (("SO_RCVBUF", 40_000), ("IPV6_TCLASS", 32), ("6:13", b"reno")))
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) == 80_000
        congestion = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16)
        assert congestion.rstrip(b"\0") == b"reno"


def test_in_order_until_one_is_not_taken() -> None:
    with socket.socket() as sock:
        options = (("SO_RCVBUF", 40_000), ("TCP_MAXSEG", 1), ("SO_SNDBUF", 40_000))
        with pytest.raises(OptionError, match=r"TCP_MAXSEG=1: Invalid argument \(EINVAL\)"):
            set_socket_options(sock, options)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) == 80_000
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) != 80_000


@pytest.mark.parametrize("value", ["65536", "re\udcffno"])
def test_a_text_for_an_option_that_takes_none(value: str) -> None:
    name = "SO_RCVBUF" if value.isdigit() else "TCP_CONGESTION"
    (found,) = options_faults(read_options({name: value}))
    assert found == f"{name}: expected an int, or bytes, got {value!r} (str)"
