"""TlsSource: where a handshake gets its context from, at the moment when it begins."""

import ssl
from typing import Any

import pytest

import certificates
from ginsfsm.net.tls import build_tls
from ginsfsm.net.tls_source import TlsSource
from secure import client_options, server_options


def server_source(**options: Any) -> TlsSource:
    return TlsSource(build_tls({**server_options(), **options}, server_side=True))


def client_source(**options: Any) -> TlsSource:
    return TlsSource(build_tls({**client_options(), **options}, server_side=False))


def wrap(source: TlsSource, host: str = "") -> ssl.SSLObject:
    return source.wrapper(host)(ssl.MemoryBIO(), ssl.MemoryBIO())


def test_a_server_wraps_for_the_servers_side() -> None:
    made = wrap(server_source())
    assert made.server_side
    assert made.server_hostname is None


def test_a_server_needs_no_host() -> None:
    assert wrap(server_source(), "ignored.example.org").server_hostname is None


def test_a_connection_takes_what_is_in_use_when_its_handshake_begins() -> None:
    source = server_source()
    early = source.wrapper("")
    before = source.tls
    source.tls = build_tls({"certfile": str(certificates.renewed())}, server_side=True)
    made = early(ssl.MemoryBIO(), ssl.MemoryBIO())
    assert made.context is source.tls.context
    assert made.context is not before.context


def test_a_client_takes_what_is_in_use_when_its_handshake_begins() -> None:
    source = client_source()
    early = source.wrapper("localhost")
    source.tls = build_tls({"ca_certs": str(certificates.other_ca())}, server_side=False)
    assert early(ssl.MemoryBIO(), ssl.MemoryBIO()).context is source.tls.context


@pytest.mark.parametrize(
    ("host", "asked"),
    [
        ("mail.example.org", "mail.example.org"),
        ("mail.example.org.", "mail.example.org"),
        ("127.0.0.1", "127.0.0.1"),
        ("::1", "::1"),
        ("fe80::1%eth0", "fe80::1"),
        ("bücher.example", "bücher.example"),
    ],
)
def test_a_client_asks_for_the_host_that_it_connects_to(host: str, asked: str) -> None:
    assert wrap(client_source(), host).server_hostname in (asked, asked.encode("idna").decode())


def test_the_options_may_name_another_host() -> None:
    source = client_source(server_hostname="other.example.org")
    assert wrap(source, "127.0.0.1").server_hostname == "other.example.org"


def test_a_client_that_does_not_look_at_the_name_needs_none() -> None:
    assert wrap(client_source(check_hostname=False), "").server_hostname is None


@pytest.mark.parametrize("host", ["", "."])
def test_no_host_to_verify_is_an_error(host: str) -> None:
    with pytest.raises(ValueError, match="no host name that could be verified"):
        wrap(client_source(), host)


@pytest.mark.parametrize("host", ["a" * 64 + ".example.org", "..", ".example.org"])
def test_a_host_that_cannot_be_one_is_a_value_error(host: str) -> None:
    with pytest.raises(ValueError):
        wrap(client_source(), host)
