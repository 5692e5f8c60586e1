"""Certificates for the tests, made when the first test asks and removed when the process ends.

Each function gives the path of a PEM file. A certificate's file has its key in it as well, and the
intermediate certificates where there are any, so one path is enough for `certfile`; `key_of` and
`chain_of` give the two halves apart, for programs and tests that want them so. The keys are
elliptic curves of 256 bits, which take a millisecond to make; `rsa` makes one of 2048 bits, for
peers and cipher suites that know nothing else.
"""

import atexit
import datetime as dt
import itertools
import shutil
import tempfile
from functools import cache
from pathlib import Path

import trustme

__all__ = [
    "ca",
    "chain_of",
    "client",
    "expired",
    "expiring",
    "key_of",
    "other_ca",
    "rsa",
    "server",
    "stranger",
]

_numbers = itertools.count(1)


@cache
def folder() -> Path:
    """Where all the files are, for tests that put their own beside them."""
    path = Path(tempfile.mkdtemp(prefix="ginsfsm-certificates-"))
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    return path


@cache
def _authority(name: str) -> trustme.CA:
    return trustme.CA(organization_name=name)


def _written(certificate: trustme.LeafCert) -> Path:
    path = folder() / f"{next(_numbers)}.pem"
    certificate.private_key_and_cert_chain_pem.write_to_path(path)
    certificate.private_key_pem.write_to_path(key_of(path))
    for blob in certificate.cert_chain_pems:
        blob.write_to_path(chain_of(path), append=True)
    return path


def key_of(path: Path) -> Path:
    """The file that has the key alone."""
    return path.with_suffix(".key.pem")


def chain_of(path: Path) -> Path:
    """The file that has the certificates alone."""
    return path.with_suffix(".chain.pem")


def _ca(name: str) -> Path:
    path = folder() / f"{name}.ca.pem"
    if not path.exists():
        _authority(name).cert_pem.write_to_path(path)
    return path


def ca() -> Path:
    """The certificate of the authority that everybody here trusts."""
    return _ca("trusted")


def other_ca() -> Path:
    """The certificate of an authority that nobody trusts unless the test says so."""
    return _ca("stranger")


@cache
def server(*names: str) -> Path:
    """A server's certificate; without names for localhost, 127.0.0.1 and ::1.

    The same names give the same file. `renewed` makes another one.
    """
    return renewed(*names)


def renewed(*names: str) -> Path:
    """A server's certificate that was never there before."""
    return _written(_authority("trusted").issue_cert(*(names or ("localhost", "127.0.0.1", "::1"))))


@cache
def rsa() -> Path:
    """A server's certificate for localhost, 127.0.0.1 and ::1 with an RSA key."""
    return _written(
        _authority("trusted").issue_cert(
            "localhost", "127.0.0.1", "::1", key_type=trustme.KeyType.RSA
        )
    )


@cache
def client(name: str = "good") -> Path:
    """A client's certificate, whose common name this is."""
    return _written(_authority("trusted").issue_cert(f"{name}@clients.example", common_name=name))


@cache
def stranger(name: str = "localhost") -> Path:
    """A certificate of the other authority, for a server or a client."""
    return _written(
        _authority("stranger").issue_cert(name, "127.0.0.1", "::1", common_name="stranger")
    )


def expiring(after: dt.timedelta) -> Path:
    """A certificate for localhost, 127.0.0.1 and ::1 with so much time left; may be negative."""
    end = dt.datetime.now(dt.UTC) + after
    return _written(
        _authority("trusted").issue_cert(
            "localhost",
            "127.0.0.1",
            "::1",
            common_name="expiring",
            not_before=end - dt.timedelta(days=30),
            not_after=end,
        )
    )


@cache
def expired() -> Path:
    """A certificate that has ended yesterday, for a server or a client."""
    return expiring(dt.timedelta(days=-1))
