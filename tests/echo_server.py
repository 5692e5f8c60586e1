"""What a program of the tests that serves under attack is made of."""

import logging
from collections import Counter

from ginsfsm import GObj, on
from ginsfsm.c_sock import EV_CONNECTED, EV_DISCONNECTED, EV_RX_DATA, EV_SEND_DATA


class Echo(GObj):
    """Sends every byte back, and counts how connections ended."""

    def start_up(self) -> None:
        self.reasons: Counter[str] = Counter()

    def ac_echo(self, event: EV_RX_DATA) -> None:
        self.send_event(event.source, EV_SEND_DATA(event.data))

    def ac_disconnected(self, event: EV_DISCONNECTED) -> None:
        self.reasons[event.reason] += 1
        self.destroy_gobj(event.source)

    machine = {
        "ST_IDLE": [
            on(EV_CONNECTED, None),
            on(EV_RX_DATA, ac_echo),
            on(EV_DISCONNECTED, ac_disconnected),
        ],
    }


class Complaints(logging.Handler):
    """Keeps what nobody should have to read."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(self.format(record))
