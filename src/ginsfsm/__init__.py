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
from ginsfsm.row import POSTPONE, after, enter, leave, on
from ginsfsm.smachine import NOT_ACCEPTED

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
