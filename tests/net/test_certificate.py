"""read_certificate: whom a certificate is for and how long, or in a sentence why there is none."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from ginsfsm.net.certificate import Certificate, CertificateError, read_certificate

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
END = datetime(2026, 4, 1, 12, 30, tzinfo=UTC)
KEY = ec.generate_private_key(ec.SECP256R1())


def certificate(
    *names: x509.GeneralName, common: str | None = "common.example", begin: datetime = BEGIN
) -> x509.Certificate:
    subject = x509.Name(
        [] if common is None else [x509.NameAttribute(x509.NameOID.COMMON_NAME, common)]
    )
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "issuer")]))
        .public_key(KEY.public_key())
        .serial_number(7)
        .not_valid_before(begin)
        .not_valid_after(END)
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(KEY, hashes.SHA256())


def pem(one: x509.Certificate) -> bytes:
    return one.public_bytes(Encoding.PEM)


def key_pem() -> bytes:
    return KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "x.pem"


@contextmanager
def unreadable(path: Path) -> Iterator[None]:
    """Nobody, or at least this process, may read the file meanwhile."""
    path.chmod(0)
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)
        path.chmod(0o600)


def refusal(path: Path | str) -> str:
    with pytest.raises(CertificateError) as caught:
        read_certificate(str(path))
    assert isinstance(caught.value, ValueError)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    return str(caught.value)


class TestWhatIsRead:
    def test_names_and_dates(self, file: Path) -> None:
        file.write_bytes(
            pem(
                certificate(
                    x509.DNSName("a.example.com"),
                    x509.RFC822Name("somebody@example.com"),
                    x509.DNSName("*.example.com"),
                    x509.IPAddress(ip_address("192.0.2.1")),
                    x509.IPAddress(ip_address("2001:db8::1")),
                )
            )
        )
        assert read_certificate(str(file)) == Certificate(
            str(file), ("a.example.com", "*.example.com", "192.0.2.1", "2001:db8::1"), BEGIN, END
        )

    def test_the_common_name_where_there_is_no_other(self, file: Path) -> None:
        file.write_bytes(pem(certificate()))
        assert read_certificate(str(file)).names == ("common.example",)
        file.write_bytes(pem(certificate(x509.RFC822Name("somebody@example.com"))))
        assert read_certificate(str(file)).names == ("common.example",)

    def test_no_name_at_all(self, file: Path) -> None:
        file.write_bytes(pem(certificate(common=None)))
        assert read_certificate(str(file)).names == ()

    def test_the_dates_are_aware_and_in_utc(self, file: Path) -> None:
        file.write_bytes(pem(certificate()))
        read = read_certificate(str(file))
        assert read.not_before.tzinfo is UTC
        assert read.not_after.tzinfo is UTC

    def test_the_first_of_a_chain(self, file: Path) -> None:
        chain = [certificate(x509.DNSName(name)) for name in ("leaf", "intermediate")]
        file.write_bytes(b"".join(map(pem, chain)))
        assert read_certificate(str(file)).names == ("leaf",)

    def test_after_a_key_and_other_text(self, file: Path) -> None:
        file.write_bytes(b"subject: x\r\n" + key_pem() + pem(certificate()))
        assert read_certificate(str(file)).names == ("common.example",)

    def test_line_ends_of_windows(self, file: Path) -> None:
        file.write_bytes(pem(certificate()).replace(b"\n", b"\r\n"))
        assert read_certificate(str(file)).names == ("common.example",)

    def test_an_extension_that_cannot_be_read_is_no_reason_to_refuse(self, file: Path) -> None:
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "broken")]))
            .issuer_name(x509.Name([]))
            .public_key(KEY.public_key())
            .serial_number(7)
            .not_valid_before(BEGIN)
            .not_valid_after(END)
            .add_extension(
                x509.UnrecognizedExtension(x509.OID_SUBJECT_ALTERNATIVE_NAME, b"\x30\x03abc"), False
            )
        )
        file.write_bytes(pem(builder.sign(KEY, hashes.SHA256())))
        assert read_certificate(str(file)).names == ("broken",)

    def test_nobody_is_warned_of_what_cryptography_thinks_of_it(
        self, file: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        load = x509.load_pem_x509_certificate

        def warn(data: bytes) -> x509.Certificate:
            warnings.warn("serial numbers should be positive", DeprecationWarning, stacklevel=1)
            return load(data)

        monkeypatch.setattr(x509, "load_pem_x509_certificate", warn)
        file.write_bytes(pem(certificate()))
        assert read_certificate(str(file)).names == ("common.example",)


class TestDaysLeft:
    def test_days_with_a_fraction(self) -> None:
        one = Certificate("x", (), BEGIN, END)
        assert one.days_left(END - timedelta(days=7, hours=12)) == 7.5

    def test_negative_once_expired(self) -> None:
        assert Certificate("x", (), BEGIN, END).days_left(END + timedelta(days=2)) == -2

    def test_in_any_time_zone(self) -> None:
        now = datetime.fromisoformat("2026-03-31T12:30:00+00:00").astimezone(
            datetime.fromisoformat("2026-01-01T00:00:00+09:00").tzinfo
        )
        assert Certificate("x", (), BEGIN, END).days_left(now) == 1

    def test_from_now_on(self) -> None:
        end = datetime.now(UTC) + timedelta(days=3)
        assert 2.99 < Certificate("x", (), BEGIN, end).days_left() <= 3


class TestWhatIsRefused:
    def test_a_missing_file(self, file: Path) -> None:
        assert refusal(file) == f"there is no file {str(file)!r}"

    def test_a_file_where_a_folder_should_be(self, file: Path) -> None:
        file.touch()
        assert refusal(file / "y.pem") == f"there is no file {str(file / 'y.pem')!r}"

    def test_a_folder(self, tmp_path: Path) -> None:
        assert refusal(tmp_path) == f"{str(tmp_path)!r} is a folder; give the path of a file"

    def test_one_that_may_not_be_read(self, file: Path) -> None:
        file.write_bytes(pem(certificate()))
        with unreadable(file):
            assert "cannot be read: permission denied" in refusal(file)

    def test_a_name_that_is_too_long(self, tmp_path: Path) -> None:
        assert "cannot be read: File name too long" in refusal(tmp_path / ("x" * 300))

    @pytest.mark.parametrize("path", ["a\0b", "\ud800"])
    def test_what_can_be_no_name(self, path: str) -> None:
        assert refusal(path)

    def test_a_pipe_which_would_hang(self, file: Path) -> None:
        os.mkfifo(file)
        assert (
            refusal(file) == f"{str(file)!r} is no regular file, but a pipe, a socket or a device"
        )

    @pytest.mark.parametrize("path", ["/dev/tty", "/dev/zero"])
    def test_a_device(self, path: str) -> None:
        assert "is no regular file" in refusal(path)

    def test_one_that_is_too_large(self, file: Path) -> None:
        with file.open("wb") as huge:
            huge.truncate(1 << 40)
        assert "is larger than 4194304 bytes" in refusal(file)

    @pytest.mark.parametrize("content", [b"", b"\n \n"])
    def test_an_empty_one(self, file: Path, content: bytes) -> None:
        file.write_bytes(content)
        assert "is empty" in refusal(file)

    def test_der(self, file: Path) -> None:
        file.write_bytes(certificate().public_bytes(Encoding.DER))
        assert "looks like DER" in refusal(file)
        assert "openssl x509 -inform der" in refusal(file)

    def test_a_key_only(self, file: Path) -> None:
        file.write_bytes(key_pem())
        assert refusal(file) == f"{str(file)!r} holds a private key, but no certificate"

    def test_something_else(self, file: Path) -> None:
        file.write_bytes(b"\xef\xbb\xbfHello")
        assert "holds no certificate in PEM form" in refusal(file)

    def test_one_behind_a_byte_order_mark_which_openssl_cannot_find(self, file: Path) -> None:
        file.write_bytes(b"\xef\xbb\xbf" + pem(certificate()))
        assert "holds no certificate in PEM form" in refusal(file)

    def test_a_damaged_one(self, file: Path) -> None:
        file.write_bytes(pem(certificate()).replace(b"\nMI", b"\nAI"))
        assert refusal(file) == f"the first certificate in {str(file)!r} is damaged"

    def test_a_key_pasted_in_place_of_a_path_is_not_shown(self) -> None:
        text = key_pem().decode()
        for pasted in (text, text.replace("\n", ""), text.splitlines()[1] + "\n"):
            assert refusal(pasted) == (
                "expected the path of a file, got what looks like the text of one"
            )


def test_cryptography_is_imported_by_the_first_certificate_only() -> None:
    program = (
        "import sys, ginsfsm.net.tls, ginsfsm.net.certificate;"
        "assert 'cryptography' not in sys.modules;"
        "ginsfsm.net.tls.build_tls({'cert_reqs': 'none'}, server_side=False);"
        "assert 'cryptography' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
