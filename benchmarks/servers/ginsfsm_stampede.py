"""Echo by lines: greets with its process number, tells what it has counted. For `stampede.py`."""

import json
import os

from ginsfsm import GObj, on
from ginsfsm.c_sock import EV_CONNECTED, EV_DISCONNECTED, EV_RX_FRAME, EV_SEND_FRAME
from ginsfsm.c_srv_sock import GServerSock

ASK = b"?"


class Stampede(GObj):
    """Sends every line back to the client it came from; `?` is answered with the counts."""

    def start_up(self) -> None:
        self.greeted = self.echoed = self.gone = 0
        self.server = self.create_gobj(
            "server", GServerSock, self, host="127.0.0.1", framing="lines", backlog=1024
        )
        print(self.server.config.port, flush=True)

    def ac_greet(self, event: EV_CONNECTED) -> None:
        self.greeted += 1
        self.send_event(event.source, EV_SEND_FRAME(b"%d" % os.getpid()))

    def ac_echo(self, event: EV_RX_FRAME) -> None:
        if event.data == ASK:
            self.send_event(event.source, EV_SEND_FRAME(self.counts()))
        else:
            self.echoed += 1
            self.send_event(event.source, EV_SEND_FRAME(event.data))

    def counts(self) -> bytes:
        stats = self.server.stats()
        return json.dumps(
            {
                "greeted": self.greeted,
                "echoed": self.echoed,
                "open": self.greeted - self.gone,
                "accepted in the statistics": stats.accepted,
                "messages in the statistics": stats.rx_messages,
                "open in the statistics": stats.open,
                "descriptors": len(os.listdir("/proc/self/fd")),
            }
        ).encode()

    def ac_disconnected(self, event: EV_DISCONNECTED) -> None:
        self.gone += 1
        self.destroy_gobj(event.source)

    machine = {
        "ST_SERVING": [
            on(EV_CONNECTED, ac_greet),
            on(EV_RX_FRAME, ac_echo),
            on(EV_DISCONNECTED, ac_disconnected),
        ],
    }
