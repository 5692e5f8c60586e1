"""Runs a command on one core and ties its life to that of the harness.

``python launch.py CORE PARENT_PID COMMAND...``

The kernel kills the command when the harness dies, even by SIGKILL; so no server outlives a run.
The command takes the place of this process, so its pid is the one that the harness holds.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # from linux/prctl.h; the standard library has no name for it


def main() -> None:
    """Pin, tie, and become the command."""
    core, parent, command = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        sys.exit(f"launch: prctl: {os.strerror(ctypes.get_errno())}")
    if os.getppid() != parent:
        sys.exit("launch: the harness died before the command started")
    os.sched_setaffinity(0, {core})
    try:
        os.execvp(command[0], command)
    except OSError as error:
        sys.exit(f"launch: {command[0]}: {error.strerror}")


if __name__ == "__main__":
    main()
