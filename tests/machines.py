"""Gclasses that tests draw: one with every kind of row, a large one, and a nasty one."""

from __future__ import annotations

import functools
from typing import Any

from ginsfsm import POSTPONE, Event, GObj, after, enter, leave, on, param


class EV_COIN(Event):
    """Somebody has paid."""

    cents: int
    currency: str = "EUR"


class EV_PUSH(Event):
    pass


class EV_REPAIR(Event):
    pass


class EV_OPENED(Event):
    """The door is open."""


def says(text: str) -> Any:
    return lambda _gobj, _event: text


class Door(GObj):
    """Opens for a coin.

    More about doors.
    """

    class config(GObj.config):
        patience: float = param(10.0, "how long it stays open")

    outputs = [EV_OPENED]

    def is_enough(self, event: EV_COIN) -> bool:
        return event.cents > 50

    def is_foreign(self, event: EV_COIN) -> bool:
        return event.currency != "EUR"

    def ac_open(self, event: EV_COIN) -> None:
        self.broadcast_event(EV_OPENED())

    def ac_push(self, event: EV_PUSH) -> None:
        self.set_new_state("ST_BROKEN")

    def light_on(self) -> None: ...
    def light_off(self) -> None: ...
    def ac_late(self) -> None: ...

    machine = {
        "ST_LOCKED": [
            on(EV_COIN, ac_open, "ST_OPEN", when=is_enough),
            on(EV_COIN, None, "ST_BROKEN", when=is_foreign),
            on(EV_COIN, None),
            on(EV_PUSH, ac_push, may=("ST_BROKEN", "ST_LOCKED")),
        ],
        "ST_OPEN": [
            leave(light_off),
            on(EV_PUSH, None, "ST_LOCKED"),
            on(EV_REPAIR, says("later"), "ST_OPEN"),
            after("patience", ac_late, "ST_LOCKED"),
            after(0.5, None),
            enter(light_on),
        ],
        "ST_BROKEN": [
            on(EV_COIN, POSTPONE),
            on(EV_REPAIR, None, "ST_LOCKED"),
        ],
    }


def event(name: str) -> type[Event]:
    return type(Event)(name, (Event,), {"__module__": __name__})


def named(name: str, takes_event: bool = True) -> Any:
    def with_event(_self: object, _event: object) -> bool:
        return True

    def without_event(_self: object) -> None: ...

    made = with_event if takes_event else without_event
    made.__name__ = made.__qualname__ = name
    return made


_STAGES = [
    "IDLE",
    "CARD_INSERTED",
    "READING_CHIP",
    "CHIP_FAILED",
    "SELECTING_APPLICATION",
    "READING_RECORDS",
    "DATA_AUTHENTICATION",
    "PROCESSING_RESTRICTIONS",
    "CARDHOLDER_VERIFICATION",
    "ENTERING_PIN",
    "PIN_REFUSED",
    "TERMINAL_RISK_MANAGEMENT",
    "TERMINAL_ACTION_ANALYSIS",
    "GOING_ONLINE",
    "CONNECTING_TO_HOST",
    "SENDING_REQUEST",
    "WAITING_FOR_ANSWER",
    "HOST_UNREACHABLE",
    "ISSUER_AUTHENTICATION",
    "SCRIPT_PROCESSING",
    "COMPLETION",
    "APPROVED",
    "DECLINED",
    "PRINTING_RECEIPT",
    "PAPER_OUT",
    "SIGNATURE_REQUESTED",
    "REVERSING",
    "REVERSAL_PENDING",
    "REMOVE_CARD",
    "OUT_OF_SERVICE",
]


def _terminal_machine() -> dict[str, list[Any]]:
    cancelled, failed, repaired = event("EV_CANCELLED_BY_CARDHOLDER"), event("EV_FAILED"), EV_REPAIR
    status, loaded = event("EV_STATUS_REQUEST"), event("EV_PARAMETERS_DOWNLOADED")
    machine: dict[str, list[Any]] = {}
    for number, stage in enumerate(_STAGES):
        following = _STAGES[(number + 1) % len(_STAGES)]
        next_one = event(f"EV_{following}_WANTED")
        machine[f"ST_{stage}"] = rows = [on(next_one, named("ac_go_on"), f"ST_{following}")]
        if number % 3 == 0:
            rows.insert(0, enter(named(f"show_{stage.lower()}", takes_event=False)))
        if number % 4 == 1:
            rows += [on(status, named("ac_tell_status")), on(loaded, POSTPONE)]
        if number in (9, 16, 18):
            rows.append(on(cancelled, named("ac_cancel"), "ST_REVERSING"))
        if number in (2, 4, 5, 14):
            rows.append(on(failed, named("ac_count"), "ST_CHIP_FAILED", when=named("is_chip")))
            rows.append(on(failed, None, "ST_OUT_OF_SERVICE"))
        if number in (14, 15, 16):
            rows.append(after("host_timeout", None, "ST_HOST_UNREACHABLE"))
        if number == 29:
            rows.append(on(repaired, None, "ST_IDLE"))
    return machine


class Terminal(GObj):
    """A payment terminal, of 30 states."""

    class config(GObj.config):
        host_timeout: float = param(30.0, "how long the host may take")

    machine = _terminal_machine()


NASTY_EVENT = 'EV_"; <b>&x</b> #35; %%{x}%% | `q` \\ :: --> {a}'
NASTY_ACTION = 'ac "<i>"; --> x : y'
NASTY_GUARD = 'a<b && c>d | "e"'
NASTY_STATES = ('ST one: "x"; <b>&amp; #59; end', "state", "ST\\", "ST_Ünïcode ▶ note left of")


def _nasty_machine() -> dict[str, list[Any]]:
    first, second, third, fourth = NASTY_STATES
    strange, end = event(NASTY_EVENT), event("end")
    action = named(NASTY_ACTION)
    return {
        first: [
            on(strange, action, second, when=named(NASTY_GUARD)),
            on(strange, None, third),
            enter(lambda _self: None),
        ],
        second: [on(strange, POSTPONE), on(end, None, third), after(2, None, fourth)],
        third: [on(strange, functools.partial(action), first)],
        fourth: [on(strange, action, first)],
    }


class Nasty(GObj):
    """Names | that <b>mean</b> something to `every` format."""

    machine = _nasty_machine()
