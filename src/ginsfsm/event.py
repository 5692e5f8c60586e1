"""Event: a named, typed message.

The name of an event is the name of its class, and its payload is the fields of that class::

    class EV_DEPOSIT(Event):
        amount: int
        note: str = ""

An event is a `msgspec.Struct`: making one costs little, `repr` shows the payload, two events with
one payload are equal, and a `msgspec` encoder writes the payload and nothing else.

`source`, the gobj that sent the event, is no field. It stands in a slot of a plain base class,
where neither `repr`, comparison nor an encoder looks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import msgspec

from ginsfsm.errors import EventError

if TYPE_CHECKING:
    from ginsfsm.gobj import GObj

__all__ = ["Event"]


class _Sourced:
    """Holds `source` beside the fields of a struct."""

    __slots__ = ("source",)

    if TYPE_CHECKING:
        # Not an annotation at run time: msgspec would look for the name GObj in this module.
        source: GObj


class Event(_Sourced, msgspec.Struct):
    """A named, typed message; derive from it and declare the payload as fields.

    Attributes:
        source: the gobj that sent the event; None until it is sent, and for an event that came
            from outside the tree. It takes no part in repr, comparison or encoding.

    Raises:
        EventError: when a class declares anything named `source`.
    """

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        # A field stands here as well: msgspec has made it a slot.
        if "source" in cls.__dict__:
            raise EventError(
                f"{cls.__qualname__} cannot declare a field 'source': event.source is the gobj "
                "that sent the event; give the field another name"
            )
        definer = next(base for base in cls.__mro__ if "__post_init__" in base.__dict__)
        if definer is cls or not issubclass(definer, Event):
            # The user's, or a mixin's, need not know that ours must run as well.
            own = definer.__dict__["__post_init__"]

            def __post_init__(self: Event) -> None:
                self.source = None  # type: ignore[assignment]
                own(self)

            type.__setattr__(cls, "__post_init__", __post_init__)

    def __post_init__(self) -> None:
        # A slot that was never set raises on reading, which is ten times the price of this.
        self.source = None  # type: ignore[assignment]

    def __copy__(self) -> Self:
        new: Self = super().__copy__()  # type: ignore[misc]
        new.source = self.source
        return new

    def sent_by(self, source: GObj) -> Self:
        """This event with that source: itself if nobody else has sent it before, else a copy.

        So forwarding a received event never changes what the forwarder, or anybody that it got
        the event from, holds.
        """
        if self.source is source:
            return self
        event: Self = self if self.source is None else super().__copy__()  # type: ignore[misc]
        event.source = source
        return event
