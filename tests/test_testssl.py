"""testssl.sh against a server that was given a certificate and nothing else.

Run as a program this file is that server: ``python test_testssl.py elliptic`` (or ``rsa``). What
is looked at, and what is excused, stands in `run_testssl.sh`.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import certificates
from ginsfsm import GAplic, GObj, on
from ginsfsm.c_sock import EV_CONNECTED, EV_DISCONNECTED, EV_RX_DATA, EV_SEND_DATA
from ginsfsm.c_srv_sock import GServerSock

SCRIPT = Path(__file__).with_name("run_testssl.sh")


class Echo(GObj):
    """Sends every byte back to the client it came from."""

    def ac_echo(self, event: EV_RX_DATA) -> None:
        self.send_event(event.source, EV_SEND_DATA(event.data))

    def ac_disconnected(self, event: EV_DISCONNECTED) -> None:
        self.destroy_gobj(event.source)

    machine = {
        "ST_IDLE": [
            on(EV_CONNECTED, None),
            on(EV_RX_DATA, ac_echo),
            on(EV_DISCONNECTED, ac_disconnected),
        ],
    }


@pytest.mark.peer
def test_no_finding_above_low(require_program: Callable[[str], str]) -> None:
    require_program("testssl")
    done = subprocess.run(
        [SCRIPT],
        env={**os.environ, "PYTHON": sys.executable},
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "good: " in done.stdout


def main(kind: str) -> None:
    certfile = certificates.rsa() if kind == "rsa" else certificates.server()
    app = GAplic("app")
    echo = app.create_gobj("echo", Echo, app)
    server = app.create_gobj(
        "server", GServerSock, echo, host="127.0.0.1", ssl_options={"certfile": str(certfile)}
    )
    print(server.config.port, certificates.ca(), flush=True)
    app.start()


if __name__ == "__main__":
    main(sys.argv[1])
