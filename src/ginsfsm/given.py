"""Given: the event that a caller gave, as an object or by its name with its payload."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from ginsfsm.errors import EventError
from ginsfsm.event import Event

if TYPE_CHECKING:
    from ginsfsm.gobj import GObj

__all__ = ["build_event", "check_is_event", "event_for", "in_words"]


def event_for(destination: GObj, event: Any, payload: dict[str, Any]) -> Event:
    """The event to deliver, from an object or from a name with its payload.

    Raises:
        EventError: when the destination's machine has it in no state, or the payload is wrong.
    """
    machine = destination.compiled
    if isinstance(event, str):
        return build_event(machine.event_class(event), payload)
    check_is_event(event, payload)
    machine.check_accepts(event.__class__)
    return cast(Event, event)


def in_words(given: object) -> str:
    """What was given, for an error; not a payload, since the error's text goes to the log."""
    if isinstance(given, Event):
        return f"an event, {type(given).__name__}"
    if isinstance(given, (bytes, bytearray)):
        return f"{len(given)} bytes"
    if given is None or isinstance(given, (bool, int, float, type)):
        return repr(given)
    return f"an object of {type(given).__name__}"


def check_is_event(event: Any, payload: dict[str, Any]) -> None:
    """Raise EventError where it is no event, or has its payload twice."""
    if isinstance(event, type) and issubclass(event, Event):
        raise EventError(
            f"expected an event, got the class {event.__name__}; write {event.__name__}(...)"
        )
    if not isinstance(event, Event):
        raise EventError(f"expected an event or the name of one, got {in_words(event)}")
    if payload:
        raise EventError(
            f"{type(event).__name__} carries its payload already; keywords "
            f"({', '.join(payload)}) go with an event given by name"
        )


def build_event(kind: type[Event], payload: dict[str, Any]) -> Event:
    """An event of that class, or EventError where the payload does not fit."""
    try:
        return kind(**payload)
    except TypeError as error:
        fields = ", ".join(kind.__struct_fields__) or "none"
        raise EventError(f"{kind.__name__}: {error}; its fields: {fields}") from error
