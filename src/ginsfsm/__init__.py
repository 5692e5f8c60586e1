"""Network servers made of finite state machines that you can draw."""

from ginsfsm.errors import (
    EventError,
    GConfigError,
    GinsfsmError,
    GObjError,
    MachineError,
    StateError,
)
from ginsfsm.event import Event
from ginsfsm.gaplic import GAplic
from ginsfsm.gconfig import param
from ginsfsm.gobj import GObj
from ginsfsm.smachine import NOT_ACCEPTED, POSTPONE, after, enter, leave, on

__all__ = [
    "NOT_ACCEPTED",
    "POSTPONE",
    "Event",
    "EventError",
    "GAplic",
    "GConfigError",
    "GObj",
    "GObjError",
    "GinsfsmError",
    "MachineError",
    "StateError",
    "after",
    "enter",
    "leave",
    "on",
    "param",
]
