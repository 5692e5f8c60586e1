"""Who is measured: the echo servers, the C programs, and where they are built."""

import shutil
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from certificate import make_certificate
from process import BenchError

HERE = Path(__file__).resolve().parent
BUILD = HERE / ".build"
SERVERS = HERE / "servers"
LOADER = BUILD / "loader"
LOADER_TLS = BUILD / "loader_tls"
CERTIFICATE = BUILD / "server.crt"
KEY = BUILD / "server.key"

PYTHON_SERVERS = {
    "uvloop": ("uvloop_protocol.py",),
    "ginsfsm": ("ginsfsm_echo.py",),
    "asyncio": ("asyncio_protocol.py",),
    "asyncio_64k": ("asyncio_protocol.py", "--max-size", "65536"),
    "uvloop_streams": ("uvloop_streams.py",),
    "twisted": ("twisted_epoll.py",),
    "tornado": ("tornado_tcp.py",),
}

TLS_SERVERS = {
    "uvloop": ("protocol_tls.py", "--uvloop"),
    "uvloop_buffered": ("protocol_tls.py", "--uvloop", "--buffered"),
    "ginsfsm": ("ginsfsm_tls_echo.py",),
    "asyncio": ("protocol_tls.py",),
}
"""Each is given the files of the certificate and of the key, too."""

SERVER_PEERS = ("c_epoll", *PYTHON_SERVERS)
TLS_PEERS = tuple(TLS_SERVERS)


def server_peers(tls: bool) -> tuple[str, ...]:
    """Return the peers that have an echo server, in the order of the tables."""
    return TLS_PEERS if tls else SERVER_PEERS


def server_command(peer: str, tls: bool) -> list[str]:
    """Return the command that starts the echo server of a peer."""
    if tls:
        script, *arguments = TLS_SERVERS[peer]
        arguments += [str(CERTIFICATE), str(KEY)]
    elif peer == "c_epoll":
        return [str(BUILD / "c_epoll")]
    else:
        script, *arguments = PYTHON_SERVERS[peer]
    return [sys.executable, str(SERVERS / script), *arguments]


def loader_command(mode: str, numbers: Sequence[int], tls: bool) -> list[str]:
    """Return the command that starts the load."""
    command = [str(LOADER_TLS if tls else LOADER), mode, *map(str, numbers)]
    return [*command, str(CERTIFICATE)] if tls else command


def build() -> None:
    """Compile the loader and the C server where their sources are newer."""
    BUILD.mkdir(exist_ok=True)
    compile_c(LOADER, [HERE / "loader.c", HERE / "loader_tcp.h"])
    compile_c(BUILD / "c_epoll", [SERVERS / "c_epoll.c"])


@cache
def build_tls(key: str) -> None:
    """Compile the loader for TLS, and make the certificate that all servers have.

    `BenchError` if this machine lacks something for it, in words; the other scenarios need
    nothing of this.
    """
    try:
        compile_c(
            LOADER_TLS,
            [HERE / "loader.c", HERE / "loader_tls.h"],
            ["-DTLS", "-lssl", "-lcrypto"],
        )
    except BenchError as error:
        said = str(error).partition("\n")[2]
        if "openssl/err.h" in said or "-lssl" in said:
            raise BenchError(
                "the loader for TLS needs the headers and the library of OpenSSL "
                "(on Debian and Ubuntu the package libssl-dev)"
            ) from None
        raise
    make_certificate(key, CERTIFICATE, KEY)


def compile_c(program: Path, sources: Sequence[Path], options: Sequence[str] = ()) -> None:
    """Compile the first of the sources, unless the program is newer than all of them."""
    newest = max(source.stat().st_mtime for source in sources)
    if program.exists() and program.stat().st_mtime > newest:
        return
    if shutil.which("cc") is None:
        raise BenchError("no C compiler: `cc` is needed to build the loader")
    command = ["cc", "-O2", "-Wall", "-o", str(program), str(sources[0]), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise BenchError(f"{' '.join(command)} failed:\n{done.stderr}")
