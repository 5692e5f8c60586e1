"""The options of ssl_options by themselves: each in every form, and every fault."""

from __future__ import annotations

import copy
import functools
import pickle
import ssl
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ginsfsm.net.server_names import host_name
from ginsfsm.net.tls import SslOptions, option_faults
from ginsfsm.net.tls_options import TlsOptions, read_options

SECRET = "correct horse"
PEM = "-----BEGIN PRIVATE KEY-----\nMIGHAgEA\n-----END PRIVATE KEY-----\n"
SERVER = {"certfile": "x.pem"}


def server(**options: Any) -> list[str]:
    return option_faults({**SERVER, **options}, server_side=True)


def client(**options: Any) -> list[str]:
    return option_faults(options, server_side=False)


def read(server_side: bool = True, **options: Any) -> TlsOptions:
    result = read_options({**SERVER, **options}, server_side=server_side)
    assert result.faults == ()
    return result


class TestWhatIsAccepted:
    def test_a_certificate_is_all_that_a_server_needs(self) -> None:
        assert server() == []

    def test_a_client_needs_nothing(self) -> None:
        assert client() == []

    def test_no_file_is_touched(self) -> None:
        assert server(certfile="/nowhere/x.crt", keyfile="/nowhere/x", ca_certs="/nowhere") == []

    def test_no_function_is_called(self) -> None:
        def never() -> Any:
            raise AssertionError

        assert server(password=never) == []
        assert option_faults({"context": never}, server_side=True) == []

    def test_paths(self) -> None:
        chain = read(certfile=Path("a.crt"), keyfile=Path("a.key"), ca_certs=Path("b")).chain
        assert chain is not None
        assert (chain.certfile, chain.keyfile) == ("a.crt", "a.key")

    def test_none_is_as_if_it_were_left_out(self) -> None:
        old = dict.fromkeys(
            ("keyfile", "ca_certs", "ciphers", "password", "alpn", "sni", "context", "cert_reqs")
        )
        assert read(**old) == read()

    @pytest.mark.parametrize("server_side", [True, False])
    def test_so_is_an_empty_path_of_what_need_not_be_there(self, server_side: bool) -> None:
        """A service hands on its own parameter, whose default is empty."""
        assert read(server_side, keyfile="", ca_certs="") == read(server_side)
        assert client(certfile=None, keyfile="") == []
        (fault,) = server(cert_reqs="required", ca_certs="")
        assert fault.startswith("cert_reqs: 'required' without ca_certs")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        assert option_faults({"context": context, "keyfile": ""}, server_side=True) == []
        chain = read(sni={"a.example": {"certfile": "a.pem", "keyfile": ""}}).sni["a.example"]
        assert chain.keyfile is None

    @pytest.mark.parametrize(
        ("value", "mode"),
        [
            (ssl.CERT_NONE, ssl.CERT_NONE),
            (0, ssl.CERT_NONE),
            ("none", ssl.CERT_NONE),
            (ssl.CERT_OPTIONAL, ssl.CERT_OPTIONAL),
            (1, ssl.CERT_OPTIONAL),
            ("optional", ssl.CERT_OPTIONAL),
            ("CERT_REQUIRED", ssl.CERT_REQUIRED),
            ("ssl.CERT_REQUIRED", ssl.CERT_REQUIRED),
            (2, ssl.CERT_REQUIRED),
        ],
    )
    def test_cert_reqs(self, value: object, mode: ssl.VerifyMode) -> None:
        assert read(cert_reqs=value, ca_certs="ca.pem").verify_mode is mode
        assert read(server_side=False, cert_reqs=value).verify_mode is mode

    def test_who_is_verified_by_default(self) -> None:
        assert read().verify_mode is ssl.CERT_NONE
        assert read(server_side=False).verify_mode is ssl.CERT_REQUIRED

    def test_the_name_is_verified_where_the_certificate_is(self) -> None:
        assert read(server_side=False).check_hostname is True
        assert read(server_side=False, check_hostname=False).check_hostname is False
        assert read(server_side=False, cert_reqs="none").check_hostname is False
        assert read().check_hostname is False

    @pytest.mark.parametrize(
        "value",
        [ssl.PROTOCOL_TLS, 2, "PROTOCOL_TLS", "TLS", "ssl.PROTOCOL_SSLv23", "protocol_tls"],
    )
    def test_ssl_version_of_all(self, value: object) -> None:
        for side in (True, False):
            found = read(side, ssl_version=value)
            assert (found.minimum, found.maximum) == (
                ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3,
            )  # fmt: skip
            assert found.warnings == ()

    def test_ssl_version_of_our_side(self) -> None:
        assert server(ssl_version=ssl.PROTOCOL_TLS_SERVER) == []
        assert server(ssl_version=17) == []
        assert client(ssl_version="PROTOCOL_TLS_CLIENT") == []

    @pytest.mark.parametrize("value", [ssl.PROTOCOL_TLSv1_2, 5, "PROTOCOL_TLSv1_2", "TLSv1.2"])
    def test_ssl_version_1_2_is_exactly_that_and_said_so(self, value: object) -> None:
        found = read(ssl_version=value)
        assert found.minimum == found.maximum == ssl.TLSVersion.TLSv1_2
        (warning,) = found.warnings
        assert warning.startswith("ssl_version: PROTOCOL_TLSv1_2 means TLS 1.2 and not 1.3")

    @pytest.mark.parametrize(
        ("value", "version"),
        [
            (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_2),
            (ssl.TLSVersion.TLSv1_3, ssl.TLSVersion.TLSv1_3),
            (0x304, ssl.TLSVersion.TLSv1_3),
            ("TLSv1.2", ssl.TLSVersion.TLSv1_2),
            ("TLSv1.3", ssl.TLSVersion.TLSv1_3),
            ("TLSv1_3", ssl.TLSVersion.TLSv1_3),
            ("tlsv1.3", ssl.TLSVersion.TLSv1_3),
        ],
    )
    def test_minimum_version(self, value: object, version: ssl.TLSVersion) -> None:
        assert read(minimum_version=value).minimum is version

    @pytest.mark.parametrize(
        ("value", "tickets"), [(True, None), (False, 0), (0, 0), (1, 1), (100, 100)]
    )
    def test_session_tickets(self, value: object, tickets: int | None) -> None:
        assert read(session_tickets=value).tickets == tickets

    def test_alpn(self) -> None:
        assert read(alpn=["h2", "x" * 255]).alpn == ("h2", "x" * 255)
        assert read(alpn=("h2",)).alpn == ("h2",)

    def test_what_wrap_socket_took_and_says_nothing_here(self) -> None:
        harmless = {"do_handshake_on_connect": True, "sock": None}
        for ragged in (True, False):
            assert server(**harmless, server_side=True, suppress_ragged_eofs=ragged) == []
            assert client(**harmless, server_side=False, suppress_ragged_eofs=ragged) == []

    @pytest.mark.parametrize(
        ("value", "name"),
        [
            ("a.example.com", "a.example.com"),
            ("a.example.com.", "a.example.com"),
            ("bücher.example", "bücher.example"),
            ("192.0.2.1", "192.0.2.1"),
            ("2001:db8::1", "2001:db8::1"),
        ],
    )
    def test_server_hostname(self, value: str, name: str) -> None:
        assert read(False, server_hostname=value).server_hostname == name

    def test_a_context_may_come_with_what_does_not_shape_it(self) -> None:
        options = {"context": ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), "server_side": False}
        assert client(**options, server_hostname="a.example", suppress_ragged_eofs=False) == []

    def test_a_context_makes_a_certificate_needless(self) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        assert option_faults({"context": context}, server_side=True) == []

    def test_ca_certs_of_which_a_server_makes_no_use(self) -> None:
        (warning,) = read(ca_certs="ca.pem").warnings
        assert warning.startswith("ca_certs: has no effect")
        assert read(False, ca_certs="ca.pem").warnings == ()

    def test_ciphers_that_no_connection_will_use(self) -> None:
        (warning,) = read(ciphers="ECDHE+AESGCM", minimum_version="TLSv1.3").warnings
        assert warning.startswith("ciphers: has no effect")
        assert read(ciphers="ECDHE+AESGCM").warnings == ()


# What is given, and how the one sentence begins.
FAULTS_OF_BOTH: list[tuple[dict[str, Any], str]] = [
    ({"cert_file": "x"}, "cert_file: unknown option; did you mean 'certfile'?"),
    ({"Password": SECRET}, "Password: unknown option; did you mean 'password'?"),
    ({"zzz": 1}, "zzz: unknown option; known: certfile, keyfile, password, ca_certs"),
    ({"certfile": 5}, "certfile: expected the path of a file, got 5 (int)"),
    ({"certfile": b"x"}, "certfile: expected the path of a file, got a bytes"),
    ({"certfile": ""}, "certfile: expected the path of a file, got '' (str)"),
    ({"certfile": PEM}, "certfile: expected the path of a file, got what looks like the text"),
    ({"keyfile": PEM}, "keyfile: expected the path of a file, got what looks like the text"),
    ({"keyfile": ["x"]}, "keyfile: expected the path of a file, got a list"),
    ({"ca_certs": True}, "ca_certs: expected the path of a file, got True (bool)"),
    ({"password": 5}, "password: expected a str or bytes, got an int; a function"),
    ({"password": [SECRET]}, "password: expected a str or bytes, got a list"),
    ({"password": "x" * 1025}, "password: expected at most 1024 bytes, got 1025"),
    ({"password": "ü" * 513}, "password: expected at most 1024 bytes, got 1026"),
    ({"cert_reqs": "always"}, "cert_reqs: expected 'none', 'optional' or 'required', got 'always'"),
    ({"cert_reqs": 3}, "cert_reqs: expected 'none', 'optional' or 'required', got 3 (int)"),
    ({"cert_reqs": True}, "cert_reqs: expected 'none', 'optional' or 'required', got True"),
    ({"cert_reqs": []}, "cert_reqs: expected 'none', 'optional' or 'required', got an empty list"),
    ({"ssl_version": "PROTOCOL_SSLv2"}, "ssl_version: versions older than TLS 1.2 are insecure"),
    ({"ssl_version": "SSLv3"}, "ssl_version: versions older than TLS 1.2 are insecure"),
    ({"ssl_version": 1}, "ssl_version: versions older than TLS 1.2 are insecure"),
    ({"ssl_version": ssl.PROTOCOL_TLSv1}, "ssl_version: versions older than TLS 1.2"),
    ({"ssl_version": ssl.PROTOCOL_TLSv1_1}, "ssl_version: versions older than TLS 1.2"),
    ({"ssl_version": ssl.TLSVersion.TLSv1_2}, "ssl_version: expected ssl.PROTOCOL_TLS, "),
    ({"ssl_version": "TLSv1.4"}, "ssl_version: expected ssl.PROTOCOL_TLS, "),
    ({"ssl_version": True}, "ssl_version: expected ssl.PROTOCOL_TLS, "),
    ({"ssl_version": {}}, "ssl_version: expected ssl.PROTOCOL_TLS, "),
    (
        {"ssl_version": "TLSv1.2", "minimum_version": "TLSv1.3"},
        "ssl_version: PROTOCOL_TLSv1_2 means TLS 1.2 only, which minimum_version forbids",
    ),
    ({"minimum_version": ssl.TLSVersion.TLSv1}, "minimum_version: versions older than TLS 1.2"),
    ({"minimum_version": "TLSv1.1"}, "minimum_version: versions older than TLS 1.2"),
    ({"minimum_version": "SSLv3"}, "minimum_version: versions older than TLS 1.2"),
    (
        {"minimum_version": ssl.TLSVersion.MINIMUM_SUPPORTED},
        "minimum_version: expected 'TLSv1.2' or 'TLSv1.3', got ",
    ),
    ({"minimum_version": 1.2}, "minimum_version: expected 'TLSv1.2' or 'TLSv1.3', got 1.2 (float)"),
    ({"minimum_version": []}, "minimum_version: expected 'TLSv1.2' or 'TLSv1.3', got an empty"),
    ({"ciphers": ["AES"]}, "ciphers: expected OpenSSL's text, such as 'ECDHE+AESGCM', got a list"),
    ({"alpn": "h2"}, "alpn: expected a list of protocols, such as ['h2', 'http/1.1'], got 'h2'"),
    ({"alpn": []}, "alpn: expected a list of protocols, such as ['h2', 'http/1.1'], got an empty"),
    ({"alpn": [""]}, "alpn: expected ASCII text of 1 to 255 bytes, got '' (str)"),
    ({"alpn": ["x" * 256]}, "alpn: expected ASCII text of 1 to 255 bytes, got 'xxx"),
    ({"alpn": ["ü"]}, "alpn: expected ASCII text of 1 to 255 bytes, got 'ü'"),
    ({"alpn": ["h2", b"h3"]}, "alpn: expected ASCII text of 1 to 255 bytes, got a bytes"),
    ({"do_handshake_on_connect": False}, "do_handshake_on_connect: the handshake is made before"),
    ({"do_handshake_on_connect": "no"}, "do_handshake_on_connect: expected True or False, got 'no"),
    ({"suppress_ragged_eofs": 1}, "suppress_ragged_eofs: expected True or False, got 1 (int)"),
    ({"sock": "a socket"}, "sock: ginsfsm opens its sockets itself"),
]

FAULTS_OF_A_SERVER: list[tuple[dict[str, Any], str]] = [
    ({"certfile": None}, "certfile: missing; a server needs a certificate, or a context"),
    ({"cert_reqs": "required"}, "cert_reqs: 'required' without ca_certs: nobody could be verified"),
    ({"cert_reqs": 1}, "cert_reqs: 'optional' without ca_certs: nobody could be verified"),
    ({"ssl_version": ssl.PROTOCOL_TLS_CLIENT}, "ssl_version: it is for the other side; use PROTOC"),
    ({"server_side": False}, "server_side: this is the side of a server; leave it out"),
    ({"server_hostname": "x"}, "server_hostname: an option of a client only; leave it out"),
    ({"check_hostname": True}, "check_hostname: an option of a client only; leave it out"),
    ({"session_tickets": -1}, "session_tickets: expected True, False or a number from 0 to 100"),
    ({"session_tickets": 101}, "session_tickets: expected True, False or a number from 0 to 100"),
    ({"session_tickets": "no"}, "session_tickets: expected True, False or a number from 0 to 100"),
    ({"sni": ["a"]}, "sni: expected host names, each with its certfile, keyfile and password, got"),
    ({"sni": {"a": "a.pem"}}, "sni['a']: expected certfile, keyfile and password, got a str"),
    ({"sni": {"a": {}}}, "sni['a'].certfile: missing; an entry needs a certificate"),
    ({"sni": {"a": {"certfile": 1}}}, "sni['a'].certfile: expected the path of a file, got 1"),
    (
        {"sni": {"a": {"certfile": "a", "ciphers": "x"}}},
        "sni['a'].ciphers: unknown option; known: certfile, keyfile, password",
    ),
    (
        {"sni": {"a": {"certfile": "a", "pasword": SECRET}}},
        "sni['a'].pasword: unknown option; did you mean 'password'?",
    ),
    ({"sni": {"a": {"certfile": "a", "password": 1}}}, "sni['a'].password: expected a str or byte"),
    ({"sni": {"": SERVER}}, "sni['']: expected a host name"),
    ({"sni": {7: SERVER}}, "sni[7]: expected a host name"),
    ({"sni": {"a b": SERVER}}, "sni['a b']: expected a host name"),
    ({"sni": {"a:443": SERVER}}, "sni['a:443']: expected a host name"),
    ({"sni": {"*": SERVER}}, "sni['*']: expected a host name"),
    ({"sni": {"a.*.b": SERVER}}, "sni['a.*.b']: expected a host name"),
    ({"sni": {"A.b": SERVER, "a.b.": SERVER}}, "sni['a.b.']: the same host name stands there twic"),
]

FAULTS_OF_A_CLIENT: list[tuple[dict[str, Any], str]] = [
    ({"keyfile": "x"}, "keyfile: of no use without certfile"),
    ({"password": SECRET}, "password: of no use without certfile"),
    ({"ssl_version": ssl.PROTOCOL_TLS_SERVER}, "ssl_version: it is for the other side; use PROTOC"),
    ({"server_side": True}, "server_side: this is the side of a client; leave it out"),
    ({"sni": {}}, "sni: an option of a server only; leave it out"),
    ({"session_tickets": True}, "session_tickets: an option of a server only; leave it out"),
    ({"check_hostname": "yes"}, "check_hostname: expected True or False, got 'yes'"),
    (
        {"check_hostname": True, "cert_reqs": "none"},
        "check_hostname: with cert_reqs 'none' no certificate is verified",
    ),
    ({"server_hostname": ""}, "server_hostname: expected a host name or an address, got ''"),
    ({"server_hostname": "."}, "server_hostname: expected a host name or an address, got '.'"),
    ({"server_hostname": ".a"}, "server_hostname: expected a host name or an address, got '.a'"),
    ({"server_hostname": "a\0b"}, "server_hostname: expected a host name or an address, got what"),
    ({"server_hostname": "x" * 64}, "server_hostname: expected a host name or an address, got 'xx"),
    ({"server_hostname": 1}, "server_hostname: expected a host name or an address, got 1 (int)"),
    ({"sever_hostname": "a"}, "sever_hostname: unknown option; did you mean 'server_hostname'?"),
]


class TestFaults:
    @pytest.mark.parametrize(("options", "begins"), FAULTS_OF_BOTH, ids=str)
    def test_of_both_sides(self, options: dict[str, Any], begins: str) -> None:
        for side in (True, False):
            (fault,) = option_faults({**SERVER, **options}, server_side=side)
            assert fault.startswith(begins)
            assert SECRET not in fault
            assert "MIGHAgEA" not in fault

    @pytest.mark.parametrize(("options", "begins"), FAULTS_OF_A_SERVER, ids=str)
    def test_of_a_server(self, options: dict[str, Any], begins: str) -> None:
        (fault,) = server(**options)
        assert fault.startswith(begins)
        assert SECRET not in fault

    @pytest.mark.parametrize(("options", "begins"), FAULTS_OF_A_CLIENT, ids=str)
    def test_of_a_client(self, options: dict[str, Any], begins: str) -> None:
        (fault,) = client(**options)
        assert fault.startswith(begins)
        assert SECRET not in fault

    def test_all_are_told_at_once(self) -> None:
        faults = server(certfile=1, alpn="h2", pasword="x", cert_reqs=9, server_hostname="x")
        assert [fault.partition(":")[0] for fault in faults] == [
            "pasword", "server_hostname", "cert_reqs", "certfile", "alpn",
        ]  # fmt: skip

    @pytest.mark.parametrize(
        "shaping",
        [
            {"certfile": "x"}, {"keyfile": "x"}, {"password": SECRET}, {"ca_certs": "x"},
            {"cert_reqs": 2}, {"ciphers": "x"}, {"ssl_version": 2}, {"minimum_version": "TLSv1.3"},
            {"alpn": ["h2"]}, {"sni": {}}, {"session_tickets": 1},
        ],
        ids=str,
    )  # fmt: skip
    def test_a_context_comes_alone(self, shaping: dict[str, Any]) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        (fault,) = option_faults({"context": context, **shaping}, server_side=True)
        assert fault.startswith(f"{next(iter(shaping))}: cannot be given with context")

    def test_check_hostname_is_the_contexts_own(self) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        (fault,) = client(context=context, check_hostname=False)
        assert fault.startswith("check_hostname: cannot be given with context")

    def test_a_context_of_the_other_side(self) -> None:
        (fault,) = option_faults(
            {"context": ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)}, server_side=True
        )
        assert fault == (
            "context: it is for the other side (PROTOCOL_TLS_CLIENT); make it with "
            "ssl.PROTOCOL_TLS_SERVER or ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)"
        )
        (fault,) = client(context=ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
        assert fault.startswith("context: it is for the other side (PROTOCOL_TLS_SERVER)")

    @pytest.mark.parametrize("value", ["module:function", 5, {"certfile": SECRET}])
    def test_what_is_no_context(self, value: object) -> None:
        (fault,) = option_faults({"context": value}, server_side=True)
        assert fault.startswith("context: expected an ssl.SSLContext or a function that makes one")
        assert SECRET not in fault


KEYS = st.sampled_from(
    ["certfile", "keyfile", "password", "ca_certs", "cert_reqs", "ciphers", "ssl_version", "sni",
     "minimum_version", "alpn", "session_tickets", "context", "server_side", "server_hostname",
     "check_hostname", "do_handshake_on_connect", "suppress_ragged_eofs", "sock", "other"]
)  # fmt: skip
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)


@given(st.dictionaries(KEYS, ANYTHING), st.booleans())
def test_nothing_that_a_settings_file_can_hold_makes_it_raise(
    options: dict[str, Any], server_side: bool
) -> None:
    for fault in option_faults(options, server_side=server_side):
        assert fault.partition(": ")[0].split("[")[0] in options or fault.startswith("certfile: mi")


class TestHostName:
    @pytest.mark.parametrize(
        ("given", "name"),
        [
            ("a.Example.COM.", "a.example.com"),
            ("*.Example.COM.", "*.example.com"),
            ("bücher.example", "xn--bcher-kva.example"),
            ("*.Bücher.example", "*.xn--bcher-kva.example"),
            ("XN--bcher-kva.example", "xn--bcher-kva.example"),
            ("localhost", "localhost"),
            ("_x.a-b.example", "_x.a-b.example"),
            ("192.0.2.1", "192.0.2.1"),
            ("x" * 63, "x" * 63),
        ],
    )
    def test_one_form_of_a_name(self, given: str, name: str) -> None:
        assert host_name(given) == name

    @pytest.mark.parametrize(
        "given",
        ["", ".", "*", "*.", "a..b", ".a", "-a", "a-", "a*", "*a.b", "*.*.b", "a/b", "[::1]",
         "x" * 64, ".".join(["x" * 63] * 4), None, b"a"],
    )  # fmt: skip
    def test_no_name(self, given: object) -> None:
        assert host_name(given) is None


class TestSslOptions:
    FULL = {
        "certfile": "a.pem",
        "password": SECRET,
        "pasword": SECRET,
        "keyfile": PEM,
        "alpn": ["h2"],
        "cert_reqs": ssl.CERT_REQUIRED,
        "context": functools.partial(len, SECRET),
        "sni": {
            "b.example": {"certfile": "b.pem", "password": SECRET.encode()},
            "c.example": {"certfile": "c.pem", "password": None},
            "d.example": SECRET,
        },
    }

    def test_no_secret_is_shown(self) -> None:
        options = SslOptions(self.FULL)
        for shown in (
            repr(options),
            str(options),
            f"{options}",
            f"{options!r:.9999}",
            f"{[options]}",
        ):
            assert SECRET not in shown
            assert "MIGHAgEA" not in shown
        assert repr(options) == (
            "{'certfile': 'a.pem', 'password': '***', 'pasword': '***', 'keyfile': '***', "
            "'alpn': ['h2'], 'cert_reqs': <VerifyMode.CERT_REQUIRED: 2>, 'context': '<partial>', "
            "'sni': {'b.example': {'certfile': 'b.pem', 'password': '***'}, "
            "'c.example': {'certfile': 'c.pem', 'password': None}, 'd.example': '***'}}"
        )

    @pytest.mark.parametrize("sni", [[SECRET], SECRET, {"a": {"sni": {"password": SECRET}}}])
    def test_nor_one_in_a_strange_place(self, sni: object) -> None:
        assert SECRET not in repr(SslOptions(sni=sni))

    def test_a_password_function_is_not_shown(self) -> None:
        options = SslOptions(password=functools.partial(str, SECRET))
        assert repr(options) == "{'password': '***'}"

    def test_it_is_equal_to_the_dict(self) -> None:
        assert SslOptions(self.FULL) == self.FULL
        assert dict(SslOptions(self.FULL)) == self.FULL
        assert SslOptions() == {}

    def test_copies_hide_as_well(self) -> None:
        options = SslOptions(self.FULL)
        for copied in (
            options.copy(),
            copy.copy(options),
            copy.deepcopy(options),
            options | {"alpn": ["x"]},
            {"alpn": ["x"]} | options,
        ):
            assert type(copied) is SslOptions
            assert SECRET not in repr(copied)

    def test_unions(self) -> None:
        assert SslOptions(a=1, b=1) | {"b": 2} == {"a": 1, "b": 2}
        assert {"a": 1, "b": 1} | SslOptions(b=2) == {"a": 1, "b": 2}
        options = SslOptions(password=SECRET)
        options |= {"a": 1}
        assert type(options) is SslOptions
        with pytest.raises(TypeError):
            options | [("a", 1)]

    def test_a_deep_copy_shares_no_mapping_but_the_context(self) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        options = SslOptions(context=context, sni={"a": {"certfile": "x"}}, alpn=["h2"])
        copied = copy.deepcopy(options)
        assert copied == options
        assert copied["context"] is context
        copied["sni"]["a"]["certfile"] = "y"
        copied["alpn"].append("x")
        assert options == {"context": context, "sni": {"a": {"certfile": "x"}}, "alpn": ["h2"]}

    @pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
    def test_it_is_not_pickled(self, protocol: int) -> None:
        with pytest.raises(TypeError, match="passphrases"):
            pickle.dumps(SslOptions(password=SECRET), protocol)
