"""Who is measured: the echo servers, the C programs, and where they are built."""

import shutil
import subprocess
import sys
from pathlib import Path

from process import BenchError

HERE = Path(__file__).resolve().parent
BUILD = HERE / ".build"
SERVERS = HERE / "servers"
LOADER = BUILD / "loader"

PYTHON_SERVERS = {
    "uvloop": ("uvloop_protocol.py",),
    "ginsfsm": ("ginsfsm_echo.py",),
    "asyncio": ("asyncio_protocol.py",),
    "asyncio_64k": ("asyncio_protocol.py", "--max-size", "65536"),
    "uvloop_streams": ("uvloop_streams.py",),
    "twisted": ("twisted_epoll.py",),
    "tornado": ("tornado_tcp.py",),
}

SERVER_PEERS = ("c_epoll", *PYTHON_SERVERS)
BASELINE = "uvloop"


def server_command(peer: str) -> list[str]:
    """Return the command that starts the echo server of a peer."""
    if peer == "c_epoll":
        return [str(BUILD / "c_epoll")]
    script, *arguments = PYTHON_SERVERS[peer]
    return [sys.executable, str(SERVERS / script), *arguments]


def build() -> None:
    """Compile the loader and the C server where their sources are newer."""
    BUILD.mkdir(exist_ok=True)
    for source, program in (
        (HERE / "loader.c", LOADER),
        (SERVERS / "c_epoll.c", BUILD / "c_epoll"),
    ):
        if program.exists() and program.stat().st_mtime > source.stat().st_mtime:
            continue
        if shutil.which("cc") is None:
            raise BenchError("no C compiler: `cc` is needed to build the loader")
        command = ["cc", "-O2", "-Wall", "-o", str(program), str(source)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise BenchError(f"{' '.join(command)} failed:\n{done.stderr}")
