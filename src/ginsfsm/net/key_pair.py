"""A certificate and its private key, loaded into a context; or, in a sentence, why they cannot be.

OpenSSL says little of what is wrong with them, and asks the terminal for a passphrase that is
missing. So the files are looked at first, and somebody always answers its question.
"""

from __future__ import annotations

import ssl
from typing import Final

from ginsfsm.net.certificate import Certificate, CertificateError, certificate_of
from ginsfsm.net.pem import Pem, PemError, read_pem
from ginsfsm.net.tls_options import ChainOptions, passphrase_of

__all__ = ["KeyPair"]

MISMATCH: Final = {"KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH", "NO_CERTIFICATE_ASSIGNED"}
"""The last is what OpenSSL says of an RSA key beside a certificate of another kind."""

TOO_WEAK: Final = {
    "EE_KEY_TOO_SMALL": "its key is too short to be secure; an RSA key needs 2048 bits",
    "CA_KEY_TOO_SMALL": "the key of an authority in it is too short to be secure",
    "CA_MD_TOO_WEAK": "it was signed with a digest that is no longer secure, such as SHA-1",
}
"""What OpenSSL says of a certificate that its security level does not allow."""


class KeyPair:
    """The files of one certificate and its key.

    Attributes:
        certificate: what was read, or None as long as there is none that can be used.
        faults: what is wrong, a sentence each, the option first.
    """

    def __init__(self, chain: ChainOptions) -> None:
        self.chain = chain
        self.certificate: Certificate | None = None
        self.faults: list[str] = []

    @property
    def files(self) -> list[str]:
        """What is read of it."""
        return [one for one in (self.chain.certfile, self.chain.keyfile) if one is not None]

    def load(self, context: ssl.SSLContext) -> None:
        """Put them into the context. It does not raise: what is wrong stands in `faults` then."""
        certificate = self._look_at_certificate()
        self._look_at_key(certificate)
        if certificate is None or self.faults or self.chain.faulty:
            return
        passphrase = _Passphrase(self.chain)
        try:
            context.load_cert_chain(self.chain.certfile, self.chain.keyfile, passphrase)
        except _NoPassphraseError:
            self._fault("password", passphrase.fault)
        except OSError as error:
            # Also the SSLError, which is one.
            self._fault(*self._why_not_loaded(certificate, passphrase.asked, error))

    def _fault(self, option: str, sentence: str) -> None:
        self.faults.append(f"{self.chain.where}{option}: {sentence}")

    def _look_at_certificate(self) -> Pem | None:
        try:
            pem = read_pem(self.chain.certfile)
            self.certificate = certificate_of(pem)
        except (PemError, CertificateError) as error:
            self._fault("certfile", str(error))
            return None
        return pem

    def _look_at_key(self, certificate: Pem | None) -> None:
        chain = self.chain
        if chain.keyfile is None:
            if certificate and not certificate.has_key and "keyfile" not in chain.faulty:
                self._fault(
                    "certfile",
                    f"{chain.certfile!r} holds no private key; give the file of the key as keyfile",
                )
            return
        try:
            if not read_pem(chain.keyfile).has_key:
                self._fault("keyfile", f"{chain.keyfile!r} holds no private key in PEM form")
        except PemError as error:
            self._fault("keyfile", str(error))

    def _why_not_loaded(self, certificate: Pem, asked: bool, error: OSError) -> tuple[str, str]:
        """The option and the sentence for what OpenSSL says of files that looked well."""
        chain = self.chain
        key_option = "certfile" if chain.keyfile is None else "keyfile"
        key = f"the key in {chain.keyfile or chain.certfile!r}"
        reason = str(getattr(error, "reason", None) or "")
        if reason in MISMATCH:
            several = certificate.certificates > 1
            order = "; the key's own certificate must be the first one there" if several else ""
            return (
                key_option,
                f"{key} does not match the certificate in {chain.certfile!r}{order}",
            )
        if reason in TOO_WEAK:
            return "certfile", f"{chain.certfile!r} is refused: {TOO_WEAK[reason]}"
        if asked:
            return "password", f"it does not open {key}"
        said = reason.replace("_", " ").lower() if isinstance(error, ssl.SSLError) else str(error)
        why = f"one of them is damaged or of an unknown kind{f' ({said})' if said else ''}"
        return key_option, f"OpenSSL cannot load {chain.certfile!r} with {key}: {why}"


class _NoPassphraseError(Exception):
    """Carries nothing: it goes through OpenSSL, back to who asked it to load the key."""


class _Passphrase:
    """Answers OpenSSL's question, which it would ask the terminal otherwise."""

    def __init__(self, chain: ChainOptions) -> None:
        self._chain = chain
        self.asked = False
        self.fault = ""

    def __call__(self) -> bytes:
        self.asked = True
        answer: object = self._chain.password
        if answer is None:
            key = self._chain.keyfile or self._chain.certfile
            self.fault = f"missing; the key in {key!r} is encrypted, so give what opens it"
            raise _NoPassphraseError
        if callable(answer):
            try:
                answer = answer()
            except Exception as error:
                # Not its text, which may hold anything.
                self.fault = f"the function raised {type(error).__name__}"
                raise _NoPassphraseError from None
        try:
            return passphrase_of(answer)
        except ValueError as error:
            self.fault = str(error)
            raise _NoPassphraseError from None
