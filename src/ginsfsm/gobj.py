"""GObj: an object of the tree, whose behaviour is a machine and whose speech is events.

`create_gobj` looks at what it was given, the parameters above all; `ginsfsm.life` does the rest,
and says how a gobj begins and ends.

Delivery. `send_event` is a look-up and a call. Everything that can make a delivery special (a
destination or an event given by name, a destroyed gobj at either end, an observer) is found by one
test or by the look-up failing, and goes the slow way through `_send`. `_watch` is that one test: it
is None unless the gobj is destroyed or its gaplic is observed.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Coroutine, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Final, TypeVar, cast, overload

from ginsfsm import gconfig
from ginsfsm.errors import EventError, GObjError, StateError, nearest
from ginsfsm.event import Event
from ginsfsm.gclass import GClass
from ginsfsm.given import build_event, check_is_event, event_for, in_words
from ginsfsm.inspection import Delivered, Refused
from ginsfsm.life import destroy, make, set_config
from ginsfsm.row import Row
from ginsfsm.smachine import (
    NOT_ACCEPTED,
    Machine,
    Postponed,
    State,
    change_state,
    compile_machine,
)
from ginsfsm.subscription import Subscription

if TYPE_CHECKING:
    from ginsfsm.clock import TimerHandle
    from ginsfsm.gaplic import GAplic
    from ginsfsm.task import Task

__all__ = ["GObj", "Subscription"]

G = TypeVar("G", bound="GObj")

logger: Final = logging.getLogger("ginsfsm")

_NO_CHILDREN: Final[Mapping[str, Any]] = MappingProxyType({})

_gclasses: Final[dict[str, list[type[GObj]]]] = {}
"""Every gclass that has been loaded, by name; settings may name any of them."""


class GObj(metaclass=GClass):
    """Base of every gclass. Derive from it; make instances with `create_gobj`.

    A gclass may declare, in its body:

    - `class config(GObj.config)`: its parameters, see `param`;
    - `outputs`: the event classes that it broadcasts;
    - `machine`: its table, see `on`, `after`, `enter`, `leave`.

    Attributes:
        name: the name among its siblings.
        parent: the gobj above it. None for the gaplic itself, which has no other way to say so;
            typed as a GObj because everything that a user writes has a parent.
        gaplic: the root of its tree.
        destroyed: True once `destroy_gobj` has begun.
        config: its parameters.
    """

    class config(gconfig.Config):
        """The parameters of the gclass."""

    outputs: Sequence[type[Event]] = ()
    machine: ClassVar[Mapping[str, Sequence[Row]]] = {"ST_IDLE": []}
    compiled: ClassVar[Machine]
    """The table of this class, compiled."""

    _constructed: ClassVar[bool] = False
    """Whether the class is made by calling it; True for gaplics only."""

    # All that a gobj needs stands in slots; the dictionary is for `config`, whose name the nested
    # class takes, and for the attributes of the user's own class.
    __slots__ = (
        "__dict__",
        "__weakref__",
        "_afters",
        "_as_subscriber",
        "_children",
        "_entered",
        "_may",
        "_postponed",
        "_publishers",
        "_state",
        "_subscriptions",
        "_tasks",
        "_unique",
        "_watch",
        "destroyed",
        "gaplic",
        "name",
        "parent",
    )

    name: str
    parent: GObj
    gaplic: GAplic
    destroyed: bool
    _state: State
    _entered: bool
    _watch: GAplic | None
    _may: frozenset[str]
    _afters: tuple[TimerHandle, ...]
    _postponed: Postponed | None
    _children: dict[str, GObj] | None
    _subscriptions: tuple[Subscription, ...]
    _publishers: dict[GObj, None] | None
    _as_subscriber: tuple[Subscription] | None
    _tasks: set[Task] | None
    _unique: bool

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        frame = sys._getframe(1)
        while frame.f_back is not None and (
            frame.f_code.co_name in ("__init_subclass__", "__new__")
            or frame.f_globals.get("__name__") in ("types", "typing")
        ):
            # A metaclass's, or another base's; behind them is the class statement.
            frame = frame.f_back
        bases = [base for base in cls.__bases__ if issubclass(base, GObj)]
        cls.compiled = compile_machine(cls, bases, frame.f_code.co_filename, frame.f_lineno)
        _gclasses.setdefault(cls.__name__, []).append(cls)

    if TYPE_CHECKING:

        def __init__(self) -> None: ...

    else:
        # Whatever is given, one sentence; to a type checker every argument is a mistake.
        def __init__(self, *_given: object, **_named: object) -> None:
            raise GObjError(
                f"{type(self).__name__} is made with "
                f"create_gobj(name, {type(self).__name__}, parent), not by calling the class"
            )

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.path} {self.state}>"

    # -- for the gclass to override ----------------------------------------------------------------

    def start_up(self) -> None:
        """Called once when the gobj is in the tree; make children here. May raise."""

    def go_out(self) -> None:
        """Called once when the gobj is being destroyed; give back here what start_up took."""

    def parameters_written(self, names: frozenset[str]) -> None:
        """Called by `write_parameters` with the names of what was written; may raise to refuse."""

    # -- what it is --------------------------------------------------------------------------------

    @property
    def state(self) -> str:
        """The name of the present state; of the last one where the gobj is destroyed."""
        return self._state.name

    def get_current_state(self) -> str:
        """The name of the present state, the same as `state`."""
        return self._state.name

    @property
    def children(self) -> Mapping[str, GObj]:
        """The gobjs below this one, by name, in the order in which they were made; read-only.

        It is a view, not a copy: a loop that destroys children goes over
        `list(self.children.values())`.
        """
        return _NO_CHILDREN if self._children is None else MappingProxyType(self._children)

    @property
    def path(self) -> str:
        """The names from the gaplic down to this gobj: `"app/echo/server"`."""
        names = [self.name]
        above: GObj | None = self.parent
        while above is not None:
            names.append(above.name)
            above = above.parent
        return "/".join(reversed(names))

    @property
    def subscriptions(self) -> tuple[Subscription, ...]:
        """Who gets this gobj's output events, in the order in which they subscribed."""
        return self._subscriptions

    # -- the tree ----------------------------------------------------------------------------------

    def create_gobj(
        self,
        name: str | None,
        gclass: type[G],
        parent: GObj,
        *,
        unique: bool = False,
        **parameters: Any,
    ) -> G:
        """Make a gobj of that gclass under that parent.

        Args:
            name: its name, different from its siblings' and without a slash; None gives it one.
            gclass: what to make.
            parent: the gobj to put it under.
            unique: register the name for the whole gaplic; then it can be given as a destination.
            parameters: values for the parameters that the gclass declares.

        Returns:
            The gobj, started.

        Raises:
            GConfigError: listing every parameter that is unknown, of the wrong type or out of
                range. Nothing has been made.
            GObjError: when the name is taken or no name, or the parent cannot have children.
            Exception: whatever its `start_up` raises; the half-made gobj has been destroyed.
        """
        if not (isinstance(gclass, type) and issubclass(gclass, GObj)) or gclass._constructed:
            raise GObjError(
                "create_gobj(name, gclass, parent): expected a gclass, derived from GObj, got "
                f"{gclass!r}{_why_not_made(gclass)}"
            )
        if not isinstance(parent, GObj):
            raise GObjError(
                f"create_gobj(name, gclass, parent): expected a gobj as the parent, got {parent!r}"
            )
        gclass = parent.gaplic.gclass_to_make(gclass)
        if name is None:
            name = parent._free_name(gclass)
        parent._check_room_for(name, unique)
        config = parent.gaplic.configure(gclass, name, f"{parent.path}/{name}", parameters)
        return make(gclass, name, parent, config, unique)

    def destroy_gobj(self, gobj: GObj | str) -> None:
        """End a gobj and everything below it; nothing happens where it is destroyed already.

        A gobj may destroy itself, and anybody may be destroyed in the middle of a delivery.
        """
        if isinstance(gobj, str):
            gobj = self.gaplic.find_unique_gobj(gobj)
        if not isinstance(gobj, GObj):
            raise GObjError(f"destroy_gobj: expected a gobj, got {gobj!r}")
        destroy(gobj)

    def write_parameters(self, **values: Any) -> None:
        """Change parameters while the gobj lives; all of them or, where one is wrong, none.

        Raises:
            GConfigError: listing every value that does not fit.
            Exception: whatever `parameters_written` raises; the old values stand again.
        """
        before = cast(gconfig.Config, self.config)
        set_config(self, before._rewritten(self.path, values))
        try:
            self.parameters_written(frozenset(values))
        except BaseException:
            set_config(self, before)
            raise

    def _free_name(self, gclass: type[GObj]) -> str:
        taken = self._children or {}
        count = len(taken) + 1
        while (name := f"{gclass.__name__.lower()}-{count}") in taken:
            count += 1
        return name

    def _check_room_for(self, name: str, unique: bool) -> None:
        if not isinstance(name, str) or not name or "/" in name:
            raise GObjError(
                f"create_gobj under {self.path}: expected a name without a slash, got {name!r}"
            )
        if self.destroyed:
            raise GObjError(f"create_gobj: {self.path} is destroyed and can have no child {name!r}")
        if self._children is not None and name in self._children:
            raise GObjError(
                f"create_gobj: {self.path} has a child named {name!r} already; "
                "choose another name, or None for a generated one"
            )
        if unique:
            self.gaplic.check_unique(name)

    # -- events ------------------------------------------------------------------------------------

    @overload
    def send_event(self, destination: GObj | str, event: Event, /) -> Any: ...
    @overload
    def send_event(self, destination: GObj | str, event: str, /, **payload: Any) -> Any: ...
    def send_event(self, destination: Any, event: Any, /, **payload: Any) -> Any:
        """Deliver an event now and return what the action returned.

        Args:
            destination: a gobj, or the name of a unique one.
            event: an event object, or its name.
            **payload: the payload, where the event is given by its name.

        Returns:
            What the action returned; None where the event was postponed; `NOT_ACCEPTED` where the
            present state of the destination has no row for it, or either side is destroyed.

        Raises:
            EventError: when no state of the destination has a row for the event, or the payload
                does not fit.
            Exception: whatever the action raises.
        """
        if self._watch is None and not payload:
            try:
                handler = destination._state[type(event)]
                source = event.source
            except (AttributeError, KeyError, TypeError):
                # The slow way comes after this block: within it, whatever it raises would have
                # this error of ours for its context.
                pass
            else:
                if source is not self:
                    if source is None:
                        event.source = self
                    else:
                        event = event.sent_by(self)
                return handler(destination, event)
        return self._send(destination, event, payload)

    @overload
    def post_event(self, destination: GObj | str, event: Event, /) -> None: ...
    @overload
    def post_event(self, destination: GObj | str, event: str, /, **payload: Any) -> None: ...
    def post_event(self, destination: Any, event: Any, /, **payload: Any) -> None:
        """Queue an event; the gaplic delivers it in the next turn of the loop.

        Raises:
            EventError: at once, when no state of the destination has a row for the event, the
                payload does not fit, or `max_posted_events` are waiting.
        """
        if self.destroyed:
            return
        destination = self._destination(destination)
        event = event_for(destination, event, payload)
        self.gaplic.post(destination, event.sent_by(self))

    @overload
    def broadcast_event(self, event: Event, /) -> int: ...
    @overload
    def broadcast_event(self, event: str, /, **payload: Any) -> int: ...
    def broadcast_event(self, event: Any, /, **payload: Any) -> int:
        """Send an output event to everybody who subscribed to it, in the order of subscription.

        Returns:
            How many subscribers took it. One that gets it posted counts.

        Raises:
            EventError: when the event is not in `outputs`, or the payload does not fit.
            Exception: the first one that a subscriber's action raised, after all have got it.
        """
        if self.destroyed:
            return 0
        if isinstance(event, str):
            event = build_event(self._output(event), payload)
        else:
            check_is_event(event, payload)
            self._output(event.__class__)
        return self._publish(event.sent_by(self))

    def subscribe_event(
        self, event: type[Event] | str | None, subscriber: GObj | str, *, post: bool = False
    ) -> None:
        """Let a gobj get an output event of this one.

        Args:
            event: the class or its name; None for every output event that the subscriber's
                machine has in some state.
            subscriber: who gets it.
            post: post the event instead of sending it.

        Raises:
            EventError: when the event is not in `outputs`, or the subscriber has it in no state.
        """
        target = self._destination(subscriber)
        if self.destroyed or target.destroyed:
            gone = self if self.destroyed else target
            raise GObjError(f"subscribe_event: {gone.path} is destroyed")
        kind = None if event is None else self._output(event)
        if kind is not None:
            target.compiled.check_accepts(kind)
        others = tuple(
            one
            for one in self._subscriptions
            if not (one.subscriber is target and one.event is kind)
        )
        if kind is None and not post:
            mine = target._hears_all()
        else:
            mine = (Subscription(kind, target, post),)
        self._subscriptions = others + mine if others else mine
        if target is not self.parent:
            # A child dies before its parent does; anybody else must be told.
            if target._publishers is None:
                target._publishers = {}
            target._publishers[self] = None

    def delete_subscription(self, event: type[Event] | str | None, subscriber: GObj | str) -> bool:
        """End a subscription; None ends all that this subscriber has here.

        Returns:
            Whether there was one.
        """
        target = self._destination(subscriber)
        kind = None if event is None else self._output(event)
        kept = tuple(
            one
            for one in self._subscriptions
            if one.subscriber is not target or (kind is not None and one.event is not kind)
        )
        found = len(kept) < len(self._subscriptions)
        self._subscriptions = kept
        if target._publishers is not None and all(one.subscriber is not target for one in kept):
            target._publishers.pop(self, None)
        return found

    def set_new_state(self, name: str) -> None:
        """Go to another state from within an action, where its row says `may=(name,)`.

        Raises:
            StateError: when the row that runs does not declare that state.
        """
        if self.destroyed:
            return
        if name not in self._may:
            states = self._state.machine.states
            if name not in states:
                raise StateError(f"{self.path}: there is no state {name!r}{nearest(name, states)}")
            legal = ", ".join(sorted(self._may)) or "none"
            raise StateError(
                f"{self.path} in {self.state}: the row that runs does not declare {name}; "
                f"write may=({name!r},) in it (declared there: {legal})"
            )
        change_state(self, self._state.machine.states[name])

    def spawn(self, coroutine: Coroutine[Any, Any, Any], done: type[Event] | None = None) -> Task:
        """Run a coroutine beside the machine, and get an event when it has ended.

        Args:
            coroutine: any asyncio coroutine. It starts when the loop runs.
            done: the class of the event that this gobj then gets, with the fields `result` and
                `error` (an exception or None). Without it a failure is logged.

        Returns:
            The task. `task.cancel()` ends it without an event, as does destroying the gobj.

        Raises:
            EventError: when `done` lacks a field, or this gobj has it in no state.
        """
        return self.gaplic.start_task(self, coroutine, done)

    # -- the slow way ------------------------------------------------------------------------------

    def _send(self, destination: Any, event: Any, payload: dict[str, Any]) -> Any:
        if self.destroyed:
            return NOT_ACCEPTED
        destination = self._destination(destination)
        event = event_for(destination, event, payload)
        return destination._take(event.sent_by(self))

    def _take(self, event: Event) -> Any:
        """Run the row for an event whose source is set."""
        if self.destroyed:
            return NOT_ACCEPTED
        handler = self._state.get(event.__class__)
        if handler is None:
            return self._refuse(event)
        gaplic = self._watch
        if gaplic is None:
            return handler(self, event)
        gaplic.observed(Delivered(event.source, self, event, self.state, gaplic.depth))
        handler = self._state.get(event.__class__)
        if handler is None:
            # The observer has destroyed it.
            return NOT_ACCEPTED
        gaplic.depth += 1
        try:
            return handler(self, event)
        finally:
            gaplic.depth -= 1

    def _refuse(self, event: Event) -> Any:
        self.gaplic.count_refused(self, event)
        if self._watch is not None:
            self._watch.observed(Refused(self, event, self.state))
        return NOT_ACCEPTED

    def _publish(
        self,
        event: Event,
        contain: Callable[[Exception, GObj, Event], None] | None = None,
    ) -> int:
        """Send an event, of `outputs` and without another's source, to its subscribers.

        Args:
            event: what to send.
            contain: what to do with an exception; without it the first one is raised at the end.
        """
        event.source = self
        kind = event.__class__
        subscriptions = self._subscriptions
        if len(subscriptions) == 1 and self._watch is None:
            only = subscriptions[0]
            if not only.post and (only.event is None or only.event is kind):
                subscriber = only.subscriber
                handler = subscriber._state.get(kind)
                if handler is not None:
                    try:
                        return handler(subscriber, event) is not NOT_ACCEPTED
                    except Exception as error:
                        if contain is None:
                            raise
                        contain(error, subscriber, event)
                        return 1
        taken = 0
        first: Exception | None = None
        told: set[GObj] = set()
        for one in subscriptions:
            subscriber = one.subscriber
            if subscriber in told or not one.wants(kind):
                continue
            now = self._subscriptions
            if now is not subscriptions and one not in now and not self.destroyed:
                # It was deleted by a subscriber before it. Where this gobj was destroyed instead,
                # the others still learn of the event that was on its way.
                continue
            told.add(subscriber)
            try:
                if one.post:
                    taken += self.gaplic.post(subscriber, event)
                elif subscriber._take(event) is not NOT_ACCEPTED:
                    taken += 1
            except Exception as error:
                if contain is None:
                    first = first or error
                else:
                    contain(error, subscriber, event)
                    taken += 1
        if first is not None:
            raise first
        return taken

    def _tell(self, event: Event) -> int:
        """`_publish` at an edge of the loop: what each subscriber raises is contained.

        Returns:
            How many subscribers took the event; one that raised did take it.
        """
        return self._publish(event, self.gaplic.contain)

    def _hears_all(self) -> tuple[Subscription]:
        """The subscription of this gobj to every event of somebody; one object for all of them."""
        mine = self._as_subscriber
        if mine is None:
            mine = self._as_subscriber = (Subscription(None, self, False),)
        return mine

    def _asks(self, event: type[Event]) -> bool:
        """Whether any subscriber has this event in some state."""
        # No `any`: each connection asks, and a generator costs more than the rest of this.
        for one in self._subscriptions:  # noqa: SIM110
            if one.wants(event):
                return True
        return False

    def _failed_delivery(self, event: Event | None) -> None:
        """An exception was contained that an event of this gobj caused; a connection ends by it."""

    def _peer_to_tell(self) -> object:
        """The address, for the log, of the peer that it speaks with; None where it has none."""
        return None

    def _destination(self, given: Any) -> GObj:
        if isinstance(given, GObj):
            return given
        if isinstance(given, str):
            return self.gaplic.find_unique_gobj(given)
        raise EventError(f"{self.path}: expected a gobj or a unique name, got {in_words(given)}")

    def _output(self, given: type[Event] | str) -> type[Event]:
        for kind in self.outputs:
            if kind is given or kind.__name__ == given:
                return kind
        name = given if isinstance(given, str) else getattr(given, "__name__", repr(given))
        raise EventError(
            f"{type(self).__name__} ({self.path}) has no output event {name}"
            f"{nearest(name, [kind.__name__ for kind in self.outputs])}"
        )


def _why_not_made(given: object) -> str:
    if isinstance(given, GObj):
        return ", which is a gobj; give its class"
    if isinstance(given, type) and issubclass(given, GObj):
        return ", which is the root of a tree and made by calling it"
    return ""


GObj.compiled = compile_machine(GObj, (), __file__, 1)
