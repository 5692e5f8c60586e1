"""An echo server. `ginsfsm run examples/echo.py:Echo`, then `nc 127.0.0.1 7000`."""

from ginsfsm import GObj, on, param
from ginsfsm.c_sock import EV_DISCONNECTED, EV_RX_DATA, EV_SEND_DATA
from ginsfsm.c_srv_sock import GServerSock


class Echo(GObj):
    """Sends every byte back to the client it came from."""

    class config(GObj.config):
        host: str = param("127.0.0.1", "address to listen on")
        port: int = param(7000, "port to listen on; 0 takes a free one")

    def start_up(self) -> None:
        self.server = self.create_gobj(
            "server", GServerSock, self, host=self.config.host, port=self.config.port)

    def ac_echo(self, event: EV_RX_DATA) -> None:
        self.send_event(event.source, EV_SEND_DATA(event.data))

    def ac_gone(self, event: EV_DISCONNECTED) -> None:
        self.destroy_gobj(event.source)

    machine = {
        "ST_IDLE": [on(EV_RX_DATA, ac_echo), on(EV_DISCONNECTED, ac_gone)],
    }
