"""The certificate of the TLS scenarios: made for the run, signed by its own key."""

import datetime as dt
from pathlib import Path

from process import BenchError

KEYS = {"ec": "EC P-256", "rsa": "RSA 2048"}
"""The kinds of key, as the command line and as the head of the report name them."""

VALID = dt.timedelta(days=1)


def make_certificate(kind: str, certificate: Path, key: Path) -> None:
    """Write a new key of a kind of `KEYS` and a certificate for ``localhost``."""
    # Imported here: the scenarios without TLS run without it.
    try:
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import ec, rsa
    except ImportError:
        raise BenchError("TLS needs the package cryptography to make a certificate") from None

    private: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
    if kind == "rsa":
        private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    else:
        private = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = dt.datetime.now(dt.UTC)
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - VALID)
        .not_valid_after(now + VALID)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(private, hashes.SHA256())
    )
    certificate.write_bytes(built.public_bytes(serialization.Encoding.PEM))
    key.touch(mode=0o600)
    key.write_bytes(
        private.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
