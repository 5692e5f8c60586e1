"""What there is to say of a collection: its faults, and what smells and is not silenced."""

from __future__ import annotations

from collections.abc import Collection as Some
from collections.abc import Iterator
from itertools import chain

from ginsfsm.check.collect import Collection
from ginsfsm.check.family import late_timeout, namesake
from ginsfsm.check.finding import Finding
from ginsfsm.check.silence import is_silenced, unknown_codes
from ginsfsm.check.smells import forgotten_event, has_own_table, looks_like_session, of_machine
from ginsfsm.check.source import source_of
from ginsfsm.check.usage import unheard_output, unread_parameter, unsent_output
from ginsfsm.event import Event
from ginsfsm.gobj import GObj

__all__ = ["findings_of"]


def findings_of(collection: Collection, ignored: Some[str] = ()) -> list[Finding]:
    """Every fault, and every smell that no comment silences, in the order of files and lines.

    Args:
        collection: what to look at.
        ignored: the codes of smells that are not wanted.
    """
    found = set(collection.faults)
    sessions = {
        child.gclass
        for one in collection.everybody()
        for child in source_of(one).children
        if child.is_session
    }
    for file in collection.files:
        found.update(unknown_codes(file))
    for cls in collection.gclasses:
        class_at = (source_of(cls).file, source_of(cls).line)
        found.update(
            finding
            for finding in chain(_of_machine(cls, collection, sessions), _of_usage(cls, collection))
            if finding.code not in ignored and not is_silenced(finding, class_at)
        )
    return sorted(found)


def _of_machine(
    cls: type[GObj], collection: Collection, sessions: Some[type[GObj]]
) -> Iterator[Finding]:
    if not has_own_table(cls):
        return

    def comes_by_itself(event: type[Event]) -> bool:
        return any(event in one.outputs for one in collection.everybody() if one is not cls)

    yield from of_machine(cls, is_session=cls in sessions or looks_like_session(cls))
    yield from forgotten_event(cls, comes_by_itself)
    yield from late_timeout(cls)
    yield from namesake(cls)


def _of_usage(cls: type[GObj], collection: Collection) -> Iterator[Finding]:
    if not collection.whole:
        return
    makers = [
        one
        for one in collection.gclasses
        if any(issubclass(child.gclass, cls) for child in source_of(one).children)
    ]
    yield from unheard_output(cls, makers, collection.everybody())
    yield from unsent_output(cls, collection.files)
    yield from unread_parameter(cls, collection.files)
