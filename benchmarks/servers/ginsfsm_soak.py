"""Echo with everything on: TLS behind a PROXY header, limits, deadlines. For `soak.py`."""

from typing import Any

from ginsfsm import GObj, on, param
from ginsfsm.c_sock import EV_CONNECTED, EV_DISCONNECTED, EV_RX_DATA, EV_SEND_DATA
from ginsfsm.c_srv_sock import EV_ALARM, EV_REFUSED, GServerSock


class Soak(GObj):
    """Sends every byte back to the client it came from."""

    class config(GObj.config):
        certfile: str = param("", "file with the certificate")
        keyfile: str = param("", "file with its private key")
        per_address: int = param(4, "connections of one address", ge=1)
        idle: float = param(3.0, "seconds of silence after which a connection ends", ge=0)

    clients = 0

    def start_up(self) -> None:
        limits: dict[str, Any] = {
            "max_connections": 5000,
            "overflow": "reject",
            "max_connections_per_ip": self.config.per_address,
            "accept_rate": 50_000.0,
            "accept_rate_per_ip": 20_000.0,
            "deny": ("192.0.2.0/24",),
            "alarm_connections": 4000,
            "idle_timeout": self.config.idle,
            "handshake_timeout": 5.0,
            "first_data_timeout": self.config.idle,
            "max_lifetime": 86_400.0,
            "min_rx_rate": 0.001,
            "close_timeout": 5.0,
        }
        self.server = self.create_gobj(
            "server",
            GServerSock,
            self,
            host="127.0.0.1",
            ssl_options={"certfile": self.config.certfile, "keyfile": self.config.keyfile},
            watch_certificates=5.0,
            proxy_protocol="require",
            proxy_trusted=("127.0.0.1",),
            **limits,
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
            on(EV_REFUSED, None),
            on(EV_ALARM, None),
        ],
    }
