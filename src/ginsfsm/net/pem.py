"""A PEM file, looked at before OpenSSL gets to see its name.

OpenSSL says "PEM lib" of almost everything that can be wrong with a file, and it opens whatever it
is told to: a FIFO, or a terminal, for which it waits until somebody writes. So each file is looked
at here first: only a regular file is opened, and what is wrong with it is one sentence.
"""

import os
import re
import stat
from dataclasses import dataclass, field
from typing import Final

__all__ = ["LARGEST", "Pem", "PemError", "is_pem_text", "read_pem"]

LARGEST: Final = 4 * 1024 * 1024
"""Bytes. All the authorities that a browser trusts, in one file, are a twentieth of it."""

# As OpenSSL reads it: at the beginning of a line, so that not even a byte order mark stands before.
_BLOCK: Final = re.compile(rb"^-----BEGIN ([A-Z0-9 ]+)-----", re.MULTILINE)


class PemError(ValueError):
    """A file that cannot be read, in a sentence; it never holds what stands in the file."""


@dataclass(frozen=True, slots=True)
class Pem:
    """What was read from one file.

    Attributes:
        path: as it was given.
        data: the bytes, perhaps with a private key among them, so no repr shows them.
        labels: of its blocks, in order: `"CERTIFICATE"`, `"PRIVATE KEY"`; none if it is no PEM.
    """

    path: str
    data: bytes = field(repr=False)
    labels: tuple[str, ...]

    @property
    def certificates(self) -> int:
        """How many certificates it holds."""
        return sum(label.endswith("CERTIFICATE") for label in self.labels)

    @property
    def has_key(self) -> bool:
        """Whether it holds a private key, encrypted or not."""
        return any(label.endswith("PRIVATE KEY") for label in self.labels)


def read_pem(path: str) -> Pem:
    """Read a file whole. It need not be PEM: that is seen in the labels.

    Raises:
        PemError: it is missing, no regular file, too large or cannot be read.
    """
    if is_pem_text(path):
        raise PemError("expected the path of a file, got what looks like the text of one")
    try:
        mode = os.stat(path).st_mode
        if stat.S_ISDIR(mode):
            raise PemError(f"{path!r} is a folder; give the path of a file")
        if not stat.S_ISREG(mode):
            raise PemError(f"{path!r} is no regular file, but a pipe, a socket or a device")
        with open(path, "rb") as file:
            data = file.read(LARGEST + 1)
    except (FileNotFoundError, NotADirectoryError):
        raise PemError(f"there is no file {path!r}") from None
    except PermissionError:
        raise PemError(
            f"{path!r} cannot be read: permission denied to the user that runs the program"
        ) from None
    except OSError as error:
        raise PemError(f"{path!r} cannot be read: {error.strerror}") from None
    except UnicodeEncodeError:
        raise PemError(f"{path!r} cannot be the name of a file") from None
    if len(data) > LARGEST:
        raise PemError(f"{path!r} is larger than {LARGEST} bytes; no certificate or key is")
    return Pem(path, data, tuple(one.decode() for one in _BLOCK.findall(data)))


def is_pem_text(path: str) -> bool:
    """Whether somebody gave the text of a file, perhaps of a private key, in place of its path."""
    return "-----BEGIN" in path or "\n" in path or "\0" in path
