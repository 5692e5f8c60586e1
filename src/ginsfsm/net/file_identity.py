"""The identity of a file: what the system says of it, which changes when the file does.

That is its device, number, size and times of change, through symbolic links, so that a file that
was replaced and a link that points elsewhere now are other files. The contents are not read. To
know later whether something else has come since a file was read, take its identity before: what is
put there in between is found then.
"""

import os

__all__ = ["FileIdentity", "file_identity"]

FileIdentity = tuple[int, ...] | None
"""None is no file: it is gone, perhaps for a moment, while it is being replaced."""


def file_identity(path: str) -> FileIdentity:
    """What the file, or the folder, is now."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        # A path with a NUL is a ValueError, and no file either.
        return None
    # Some copy the time of the contents with the contents (`cp -p`); nobody can copy the other one.
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
