"""What can be wrong with a table, and where.

`checked_table` looks at a gclass once, when its class is created. Each check goes over the whole
table and stops at nothing, so that all faults are reported together, in one `MachineError` with a
line for each. A fault stands at its row, at the action that it is about, or, where there is
neither, at the class statement. A class with a fault does not come to be.

What passes can be compiled without another look.
"""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from ginsfsm.errors import MachineError, nearest
from ginsfsm.event import Event
from ginsfsm.folder import short_path
from ginsfsm.gconfig import Config, Param
from ginsfsm.row import Postpone, Row, Table, bound, name_of, targets
from ginsfsm.seconds import is_seconds

if TYPE_CHECKING:
    from ginsfsm.gobj import GObj

__all__ = ["Fault", "checked_table"]

Fault: TypeAlias = tuple[str, int, str]
"""The file and the line where something is wrong, and what."""

listener: Callable[[type[GObj], list[Fault]], None] | None = None
"""Who is told of the faults of a class, which then comes to be with a table without rows; without
one they are raised. A tool sets it that wants the faults of all classes, not of the first one."""


def checked_table(cls: type[GObj], bases: Iterable[type[GObj]], file: str, line: int) -> Table:
    """The rows of each state of a gclass that has no fault.

    Args:
        cls: the gclass, complete but for its compiled machine.
        bases: the gclasses it derives from directly.
        file: where its class statement stands.
        line: likewise.

    Raises:
        MachineError: with one line for each fault, each with file and line.
    """
    faults = _Faults(cls, file, line)
    _check_config(cls, bases, faults)
    _check_body(cls, faults)
    table = _table(cls, faults)
    _check_rows(cls, table, faults)
    _check_reach(table, faults)
    _check_events(cls, table, faults)
    _check_unused_actions(cls, table, faults)
    if faults.found and listener is not None:
        listener(cls, faults.found)
        return {"ST_IDLE": []}
    faults.raise_any()
    return table


class _Faults:
    """Collects what is wrong with a table, each with its place."""

    def __init__(self, cls: type[GObj], file: str, line: int) -> None:
        self.cls = cls
        self.place = (file, line)
        self.found: list[Fault] = []

    def row(self, row: Row, state: str, problem: str) -> None:
        self.at((row.file, row.line), f"{state}: {row!r}: {problem}")

    def at(self, place: tuple[str, int] | None, problem: str) -> None:
        file, line = place or self.place
        if (file, line, problem) not in self.found:
            self.found.append((file, line, problem))

    def raise_any(self) -> None:
        if self.found:
            count = len(self.found)
            head = f"{self.cls.__qualname__}: {count} fault{'s' if count > 1 else ''} in the class"
            lines = [f"{short_path(file)}:{line}: {problem}" for file, line, problem in self.found]
            raise MachineError("\n  ".join([head, *lines]))


def _check_config(cls: type[GObj], bases: Iterable[type[GObj]], faults: _Faults) -> None:
    configs = {base.config: f"{base.__name__}.config" for base in bases}
    if not (isinstance(cls.config, type) and all(issubclass(cls.config, one) for one in configs)):
        faults.at(
            None,
            "config: must derive from the config of every base; write "
            f"`class config({', '.join(configs.values())}):`",
        )


_CALLED: Final = ("start_up", "go_out", "parameters_written")
"""The methods that the library calls, and awaits as little as it does an action."""


def _check_body(cls: type[GObj], faults: _Faults) -> None:
    """Whether what stands in the body under another name was meant to be read by the library."""
    body = cls.__dict__
    # GObj has one that says so, and the root of a tree is made by calling it.
    if "__init__" in body and cls.__bases__ != (object,) and not cls._constructed:
        faults.at(
            _place_of(body["__init__"]),
            "a gobj is made by create_gobj, which does not call __init__; "
            "write start_up(self) instead",
        )
    for name, value in body.items():
        if (
            "machine" not in body
            and isinstance(value, Mapping)
            and any(isinstance(row, Row) for rows in value.values() for row in _listed(rows))
        ):
            faults.at(None, f"{name}: a table of rows is read under the name `machine`")
        elif (
            "config" not in body
            and isinstance(value, type)
            and issubclass(value, Config)
            and value.__qualname__ == f"{cls.__qualname__}.{name}"
        ):
            faults.at(None, f"{name}: the class of the parameters is read under the name `config`")
        elif isinstance(value, Param):
            faults.at(
                None,
                f"{name}: a parameter stands in the nested class: "
                f"`class config({cls.__bases__[0].__name__}.config):`",
            )
    for name in _CALLED:
        given = body.get(name)
        if inspect.iscoroutinefunction(given) or inspect.isasyncgenfunction(given):
            faults.at(
                _place_of(given),
                f"{name} is a coroutine function and would never run; write it with def, and "
                "start a coroutine from it with self.spawn(...)",
            )


def _listed(rows: object) -> Iterable[object]:
    return rows if isinstance(rows, (list, tuple)) else ()


def _table(cls: type[GObj], faults: _Faults) -> Table:
    given = cls.machine
    if not isinstance(given, Mapping) or not given:
        faults.at(None, 'machine: expected a table {"ST_NAME": [rows]} with at least one state')
        return {}
    table: Table = {}
    for name, rows in given.items():
        if not isinstance(name, str) or not name:
            faults.at(None, f"machine: {name!r}: expected the name of a state, such as 'ST_IDLE'")
            continue
        if not isinstance(rows, (list, tuple)):
            faults.at(None, f"{name}: expected a list of rows, got {type(rows).__name__}")
            rows = ()
        table[name] = []
        for row in rows:
            if isinstance(row, Row):
                table[name].append(row)
            else:
                faults.at(
                    None,
                    f"{name}: {_as_written(row)} is no row; write on(EV_X, ac_x, 'ST_Y'), after(), "
                    "enter() or leave()",
                )
    return table


def _as_written(given: object) -> str:
    """What stands in the place of a row, much as the class wrote it."""
    if isinstance(given, (tuple, list)):
        words = [repr(one) if isinstance(one, str) else name_of(one) for one in given]
        return f"({', '.join(words)})"
    return repr(given) if isinstance(given, str) else name_of(given)


def _check_rows(cls: type[GObj], table: Table, faults: _Faults) -> None:
    may = {target for rows in table.values() for row in rows for target in row.may}
    for state, rows in table.items():
        # An action may go on to another state when its row has brought the gobj here.
        left = may.union(*(targets(row) for row in rows)) - {state}
        settled: dict[object, Row] = {}
        for row in rows:
            taken = row.event if row.kind == "on" and _is_event(row.event) else row.kind
            earlier = settled.get(taken)
            if earlier is not None:
                faults.row(
                    row,
                    state,
                    f"can never fire: line {earlier.line} takes {name_of(row.event)} "
                    "without a guard"
                    if row.kind == "on"
                    else f"can never fire: line {earlier.line} is the {row.kind} of this state",
                )
            elif row.kind in ("enter", "leave") or (_is_event(taken) and row.when is None):
                settled[taken] = row
            if row.kind == "leave" and not left:
                faults.row(row, state, "can never fire: no row goes out of this state")
            _check_row(cls, row, state, table, faults)


def _check_row(cls: type[GObj], row: Row, state: str, table: Table, faults: _Faults) -> None:
    for target in targets(row):
        if target not in table:
            faults.row(row, state, f"there is no state {target!r}{nearest(target, table)}")
    if row.kind == "on" and not _is_event(row.event):
        hint = "; events are told apart by their exact class" if row.event is Event else ""
        faults.row(
            row, state, f"expected a class derived from Event, got {name_of(row.event)}{hint}"
        )
        return
    if row.kind == "after":
        _check_seconds(cls, row, state, faults)
    if isinstance(row.action, Postpone):
        if row.kind != "on":
            faults.row(row, state, "POSTPONE keeps an event; it has no place here")
        elif row.next_state is not None or row.may:
            faults.row(
                row,
                state,
                "POSTPONE with a next state: a postponed event waits for the next "
                "change, it cannot cause one",
            )
    elif row.action is not None:
        _check_call(cls, row.action, row, state, faults, "action")
    elif row.kind in ("enter", "leave"):
        faults.row(row, state, "expected an action")
    if row.when is not None:
        _check_call(cls, row.when, row, state, faults, "guard")


_SECONDS: Final = {int, float, types.NoneType}
"""What the type of a parameter may be made of that an `after` row names."""


def _check_seconds(cls: type[GObj], row: Row, state: str, faults: _Faults) -> None:
    seconds = row.seconds
    if isinstance(seconds, str):
        params = getattr(cls.config, "_params", {})
        declared = params.get(seconds)
        if isinstance(getattr(cls.config, seconds, None), Param):
            # Its declaration has a fault of its own, which is told already.
            return
        if declared is None:
            faults.row(row, state, f"there is no parameter {seconds!r}{nearest(seconds, params)}")
        elif not set(typing.get_args(declared.type) or (declared.type,)) <= _SECONDS:
            faults.row(row, state, f"the parameter {seconds!r} holds no number of seconds")
    elif not is_seconds(seconds):
        faults.row(row, state, f"expected seconds or the name of a parameter, got {seconds!r}")


def _check_call(
    cls: type[GObj], given: Any, row: Row, state: str, faults: _Faults, word: str
) -> None:
    """Whether an action or a guard can be called as its row will call it."""
    function = bound(cls, given)
    if not callable(function):
        faults.row(row, state, f"expected a method as the {word}, got {given!r}")
        return
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        faults.row(
            row,
            state,
            f"the {word} {name_of(given)} is a coroutine function and would never run; "
            "write it with def, and start a coroutine from it with self.spawn(...)" + _at(function),
        )
        return
    if inspect.isgeneratorfunction(function):
        faults.row(
            row,
            state,
            f"the {word} {name_of(given)} has a yield, so calling it does nothing" + _at(function),
        )
        return
    wanted = ("self", "event") if row.kind == "on" else ("self",)
    try:
        signature = inspect.signature(function)
    except (ValueError, TypeError):
        # Some functions written in C do not tell; they cannot be checked.
        return
    try:
        signature.bind(*wanted)
    except TypeError:
        faults.row(
            row,
            state,
            f"the {word} {name_of(given)}{signature} is called with "
            f"({', '.join(wanted)})" + _at(function),
        )
        return
    if row.kind == "on":
        annotation = _event_annotation(function, signature)
        if annotation and not any(issubclass(row.event, one) for one in annotation):
            faults.row(
                row,
                state,
                f"the {word} {name_of(given)} takes "
                f"{' | '.join(one.__name__ for one in annotation)}, not {row.event.__name__}"
                + _at(function),
            )


def _event_annotation(function: Any, signature: inspect.Signature) -> tuple[type, ...]:
    """The event classes that an action says it takes; empty where that cannot be known."""
    parameters = list(signature.parameters.values())
    if len(parameters) < 2:
        return ()
    annotation = parameters[1].annotation
    if isinstance(annotation, str):
        scope = getattr(inspect.unwrap(function), "__globals__", {})
        found = [scope.get(word.strip()) for word in annotation.split("|")]
    else:
        found = list(typing.get_args(annotation) or (annotation,))
    # One that cannot be resolved makes the whole unknown.
    if all(isinstance(one, type) and issubclass(one, Event) for one in found):
        return tuple(one for one in found if isinstance(one, type))
    return ()


def _check_reach(table: Table, faults: _Faults) -> None:
    if not table:
        return
    reached: set[str] = set()
    todo = [next(iter(table))]
    while todo:
        state = todo.pop()
        if state in reached or state not in table:
            continue
        reached.add(state)
        todo.extend(target for row in table[state] for target in targets(row))
    for state, rows in table.items():
        if state not in reached:
            place = (rows[0].file, rows[0].line) if rows else None
            faults.at(
                place, f"{state}: no row reaches this state; the initial one is {next(iter(table))}"
            )


def _check_events(cls: type[GObj], table: Table, faults: _Faults) -> None:
    named: dict[str, type[Event]] = {}
    used: list[tuple[Any, tuple[str, int] | None, str]] = [
        (row.event, (row.file, row.line), f"{state}: {row!r}")
        for state, rows in table.items()
        for row in rows
        if row.kind == "on"
    ]
    if isinstance(cls.outputs, (list, tuple)):
        used += [(event, None, "outputs") for event in cls.outputs]
    else:
        faults.at(None, f"outputs: expected a list of event classes, got {cls.outputs!r}")
    for event, place, where in used:
        if not _is_event(event):
            if where == "outputs":
                faults.at(None, f"outputs: expected event classes, got {event!r}")
            continue
        other = named.setdefault(event.__name__, event)
        if other is not event:
            faults.at(
                place,
                f"{where}: two events are named {event.__name__}: "
                f"{other.__module__}.{other.__qualname__} and "
                f"{event.__module__}.{event.__qualname__}",
            )
        if event.__struct_config__.frozen:
            faults.at(
                place,
                f"{where}: {event.__name__} is frozen, so it cannot carry its source; "
                "leave out frozen=True",
            )


def _check_unused_actions(cls: type[GObj], table: Table, faults: _Faults) -> None:
    body = cls.__dict__
    if "machine" not in body:
        return
    rows_of_all = [row for rows in table.values() for row in rows]
    used = [bound(cls, given) for row in rows_of_all for given in (row.action, row.when)]
    for name, value in body.items():
        if name.startswith("ac_") and inspect.isfunction(value) and value not in used:
            faults.at(
                _place_of(value),
                f"{name} is in no row of the machine; add a row, or name it without 'ac_'",
            )


def _is_event(given: object) -> bool:
    """A class that an event can have. `Event` itself is no message, and rows match exactly."""
    return isinstance(given, type) and issubclass(given, Event) and given is not Event


def _at(function: Any) -> str:
    file, line = _place_of(function) or ("", 0)
    return f" (defined at {short_path(file)}:{line})" if file else ""


def _place_of(function: Any) -> tuple[str, int] | None:
    """Where a function begins; None for what only acts as one, such as a partial."""
    code = getattr(function, "__code__", None)
    return None if code is None else (code.co_filename, code.co_firstlineno)
