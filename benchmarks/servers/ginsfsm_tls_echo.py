"""Echo over TLS with ginsfsm, as its documentation shows it.

``python ginsfsm_tls_echo.py CERTIFICATE KEY``
"""

import sys

from ginsfsm import GAplic, GObj, on, param
from ginsfsm.c_sock import EV_CONNECTED, EV_DISCONNECTED, EV_RX_DATA, EV_SEND_DATA
from ginsfsm.c_srv_sock import GServerSock


class Echo(GObj):
    """Sends every byte back to the client it came from."""

    class config(GObj.config):
        host: str = param("127.0.0.1", "address to listen on")
        port: int = param(0, "port to listen on; 0 takes a free one")
        certfile: str = param("", "file with the certificate")
        keyfile: str = param("", "file with its private key")

    clients = 0

    def start_up(self) -> None:
        self.server = self.create_gobj(
            "server",
            GServerSock,
            self,
            host=self.config.host,
            port=self.config.port,
            ssl_options={"certfile": self.config.certfile, "keyfile": self.config.keyfile},
        )
        print(self.server.config.port, flush=True)

    def ac_connected(self, event: EV_CONNECTED) -> None:
        self.clients += 1

    def ac_echo(self, event: EV_RX_DATA) -> None:
        self.send_event(event.source, EV_SEND_DATA(event.data))

    def ac_disconnected(self, event: EV_DISCONNECTED) -> None:
        self.clients -= 1
        self.destroy_gobj(event.source)

    machine = {
        "ST_IDLE": [
            on(EV_CONNECTED, ac_connected),
            on(EV_RX_DATA, ac_echo),
            on(EV_DISCONNECTED, ac_disconnected),
        ],
    }


if __name__ == "__main__":
    certificate, key = sys.argv[1:]
    app = GAplic("echo")
    app.create_gobj("echo", Echo, app, certfile=certificate, keyfile=key)
    app.start()
