"""Subscription: who gets which output event of a publisher."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ginsfsm.event import Event

if TYPE_CHECKING:
    from ginsfsm.gobj import GObj

__all__ = ["Subscription"]


class Subscription:
    """Who gets which output event of a publisher."""

    __slots__ = ("event", "post", "subscriber")

    def __init__(self, event: type[Event] | None, subscriber: GObj, post: bool) -> None:
        self.event = event
        """The class, or None for every output event that the subscriber has in some state."""
        self.subscriber = subscriber
        self.post = post
        """Whether events are posted instead of sent."""

    def wants(self, event: type[Event]) -> bool:
        if self.event is None:
            return event in self.subscriber.compiled.accepted
        return self.event is event

    def __repr__(self) -> str:
        what = "every event" if self.event is None else self.event.__name__
        return f"<{what} to {self.subscriber.path}>"
