"""Reserve: address space kept back for the moment when a process has no memory left.

An action that gets no memory costs its connection, and its error is logged. Where that was one
large piece, the process serves on. Where there is none left at all (`ulimit -v`, a leak), nothing
can be served any more, not even the log: each event fails and none is ever done with, and the
interpreter writes a line to stderr for each, without end. So at such an error the reserve is given
back first, and the error can be logged; if it cannot be had again then, the process ends, and
whoever supervises it starts another.

Nothing is ever written to the reserve, so it takes no memory. A limit of a container or of systemd
(`MemoryMax=`) counts what is written; the system kills the process there.
"""

import logging
import mmap
import os
from typing import Any, Final

from ginsfsm.command.report import FAILED
from ginsfsm.gaplic import GAplic
from ginsfsm.logs.fields import about

__all__ = ["keep_reserve"]

logger = logging.getLogger("ginsfsm")

SIZE: Final = 4 << 20
"""Bytes; Python takes memory in pieces of 1 MiB."""


def keep_reserve(app: GAplic) -> None:
    """Keep one, and let that gaplic end the process where it is needed and cannot be had back."""
    contain = app.contain
    kept = _take()

    def contain_and_look(error: Exception, *rest: Any) -> None:
        nonlocal kept
        if not isinstance(error, MemoryError):
            contain(error, *rest)
            return
        kept.close()
        contain(error, *rest)
        try:
            kept = _take()
        except OSError:
            logger.critical(
                "there is no memory left: ending, since nothing can be served any more",
                extra=about(app, error=error),
            )
            # An orderly end would need memory, too. The system closes what is open.
            os._exit(FAILED)

    app.contain = contain_and_look  # type: ignore[method-assign, assignment]


def _take() -> mmap.mmap:
    return mmap.mmap(-1, SIZE)
