"""Life: how a gobj is made, moved and destroyed.

`make` puts it into the tree, subscribes its parent (or the gobj in its parameter `subscriber`) to
its output events, calls `start_up` and enters the initial state. Events that arrive during
`start_up` are delivered in the initial state. Where any of that raises, the gobj is destroyed
before the error goes on.

`destroy` marks it destroyed first, so that from then on it takes and sends nothing; then its
children go, last made first, its timers, tasks and subscriptions, then `go_out` is called, and it
leaves the tree.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeVar, cast

from ginsfsm.errors import GObjError
from ginsfsm.gconfig import Config
from ginsfsm.inspection import Created, Destroyed
from ginsfsm.smachine import Postponed, enter_initial

if TYPE_CHECKING:
    from ginsfsm.gaplic import GAplic
    from ginsfsm.gobj import GObj

__all__ = ["adopt", "begin", "destroy", "make", "set_config"]

G = TypeVar("G", bound="GObj")

_NOWHERE: Final[frozenset[str]] = frozenset()
"""The states to which an action may go that declares none."""


def make(gclass: type[G], name: str, parent: GObj, config: Config, unique: bool = False) -> G:
    """Put a gobj with a ready config into the tree and start it. The name must be free."""
    subscriber: GObj | str | None = getattr(config, "subscriber", None) if gclass.outputs else None
    if subscriber is not None and not isinstance(subscriber, str) and subscriber.destroyed:
        raise GObjError(
            f"{parent.path}/{name} ({gclass.__name__}): its subscriber {subscriber.path} is "
            "destroyed; give one that lives, or none for the parent"
        )
    gobj = gclass.__new__(gclass)
    begin(gobj, name, parent, parent.gaplic, config)
    if parent._children is None:
        parent._children = {}
    parent._children[name] = gobj
    gaplic = gobj.gaplic
    try:
        if unique:
            gaplic.register_unique(gobj)
        if gobj._watch is not None:
            gaplic.observed(Created(gobj))
            if gobj.destroyed:
                # Nothing would give back what its start_up took.
                raise GObjError(f"{gobj.path} was destroyed by the observer before it started")
        if gobj.outputs:
            if subscriber is None:
                gobj._subscriptions = parent._hears_all()
            else:
                gobj.subscribe_event(None, subscriber)
        gobj.start_up()
        enter_initial(gobj)
    except BaseException:
        destroy(gobj)
        raise
    return gobj


def adopt(gobj: GObj, parent: GObj) -> None:
    """Put a gobj that nobody was told of yet under another parent, who hears it from now on.

    Its name must be free there.
    """
    del gobj.parent._children[gobj.name]  # type: ignore[union-attr]
    for one in gobj._subscriptions:
        if one.subscriber._publishers is not None:
            one.subscriber._publishers.pop(gobj, None)
    gobj.parent = parent
    if parent._children is None:
        parent._children = {}
    parent._children[gobj.name] = gobj
    gobj._subscriptions = parent._hears_all()


def set_config(gobj: GObj, config: Config) -> None:
    """Give a gobj its parameters."""
    # The nested class has the name for type checkers. Not through __dict__: touching that makes
    # Python build the dictionary, and every attribute of every action is twice as slow from then.
    gobj.config = config  # type: ignore[assignment]


def begin(gobj: GObj, name: str, parent: GObj | None, gaplic: GAplic, config: Config) -> None:
    """Give a new gobj all that it needs, in the initial state that it has yet to enter."""
    gobj.name = name
    gobj.parent = cast("GObj", parent)
    gobj.gaplic = gaplic
    gobj.destroyed = False
    set_config(gobj, config)
    machine = gobj.compiled
    gobj._state = machine.initial
    gobj._entered = False
    gobj._watch = gaplic if gaplic.observer is not None else None
    gobj._may = _NOWHERE
    gobj._afters = ()
    gobj._postponed = Postponed() if machine.postpones else None
    gobj._children = None
    gobj._subscriptions = ()
    gobj._publishers = None
    gobj._as_subscriber = None
    gobj._tasks = None
    gobj._unique = False


def destroy(gobj: GObj) -> None:
    """End a gobj and everything below it; nothing happens where it is destroyed already."""
    if gobj.destroyed:
        return
    gobj.destroyed = True
    gaplic = gobj.gaplic
    gobj._watch = gaplic
    gobj._state = gobj._state.tomb
    # A KeyboardInterrupt or a SystemExit goes on, but only when everything has been given back:
    # what is marked destroyed is never destroyed again.
    interrupted: BaseException | None = None
    if gobj._children:
        for child in reversed(list(gobj._children.values())):
            try:
                destroy(child)
            except BaseException as interruption:
                interrupted = interrupted or interruption
    if gobj._afters:
        for timer in gobj._afters:
            timer.cancel()
        gobj._afters = ()
    if gobj._tasks:
        for task in list(gobj._tasks):
            task.cancel()
    if gobj._postponed is not None:
        gobj._postponed.queue.clear()
    for one in gobj._subscriptions:
        if one.subscriber._publishers is not None:
            one.subscriber._publishers.pop(gobj, None)
    gobj._subscriptions = ()
    if gobj._publishers:
        for publisher in gobj._publishers:
            publisher._subscriptions = tuple(
                one for one in publisher._subscriptions if one.subscriber is not gobj
            )
        gobj._publishers = None
    # It holds this gobj, which would then wait for the garbage collector.
    gobj._as_subscriber = None
    try:
        gobj.go_out()
    except Exception as error:
        gaplic.contain(error, gobj, None, "go_out")
    except BaseException as interruption:
        interrupted = interrupted or interruption
    finally:
        if gobj._unique:
            gaplic.forget_unique(gobj)
        siblings = None if gobj.parent is None else gobj.parent._children
        if siblings is not None and siblings.get(gobj.name) is gobj:
            del siblings[gobj.name]
        if gaplic.observer is not None:
            gaplic.observed(Destroyed(gobj))
    if interrupted is not None:
        raise interrupted
