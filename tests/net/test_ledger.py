import tracemalloc

import pytest

from ginsfsm.net.ledger import Ledger


class Connection:
    """As a gobj: known by its identity."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return f"<connection {self.name}>"


def test_empty() -> None:
    ledger = Ledger[Connection]()
    assert len(ledger) == 0
    assert list(ledger) == []
    assert (ledger.accepted, ledger.refused, ledger.failed) == (0, 0, 0)
    assert ledger.on_close is None


def test_an_empty_ledger_is_true() -> None:
    # "ledger or Ledger()" would give the connections of an idle server another ledger.
    assert Ledger[Connection]()


def test_counts_and_lists_in_order_of_opening() -> None:
    ledger = Ledger[Connection]()
    one, two, three = (Connection(name) for name in "123")
    for connection in (two, one, three):
        ledger.open(connection)
    assert list(ledger) == [two, one, three]
    ledger.close(two)
    assert list(ledger) == [one, three]
    assert len(ledger) == 2
    assert ledger.accepted == 3
    assert one in ledger
    assert two not in ledger
    assert "no connection" not in ledger


def test_may_be_opened_again_after_a_close_and_is_last_then() -> None:
    ledger = Ledger[Connection]()
    one, two = Connection("1"), Connection("2")
    ledger.open(one)
    ledger.open(two)
    ledger.close(one)
    ledger.open(one)
    assert list(ledger) == [two, one]
    assert ledger.accepted == 3


def test_opening_twice_is_an_error_and_changes_nothing() -> None:
    ledger = Ledger[Connection]()
    one = Connection("1")
    ledger.open(one)
    with pytest.raises(ValueError, match="<connection 1> is open in the ledger already"):
        ledger.open(one)
    assert len(ledger) == 1
    assert ledger.accepted == 1


@pytest.mark.parametrize("opened_before", [True, False])
def test_closing_what_is_not_open_is_an_error(opened_before: bool) -> None:
    ledger = Ledger[Connection]()
    one = Connection("1")
    if opened_before:
        ledger.open(one)
        ledger.close(one)
    called: list[None] = []
    ledger.on_close = lambda: called.append(None)
    with pytest.raises(KeyError, match="<connection 1> is not open in the ledger"):
        ledger.close(one)
    assert called == []


def test_equal_connections_that_are_not_the_same_are_two() -> None:
    ledger = Ledger[Connection]()
    ledger.open(Connection("1"))
    ledger.open(Connection("1"))
    assert len(ledger) == 2


def test_on_close_comes_after_the_entry_has_gone() -> None:
    ledger = Ledger[Connection]()
    one, two = Connection("1"), Connection("2")
    ledger.open(one)
    ledger.open(two)
    seen: list[tuple[int, bool]] = []
    ledger.on_close = lambda: seen.append((len(ledger), one in ledger))
    ledger.close(one)
    assert seen == [(1, False)]
    # The server has ended, its connections have not.
    ledger.on_close = None
    ledger.close(two)
    assert seen == [(1, False)]
    assert len(ledger) == 0


def test_on_close_may_open_and_close() -> None:
    ledger = Ledger[Connection]()
    one, two = Connection("1"), Connection("2")

    def accept_next() -> None:
        ledger.on_close = None
        ledger.open(two)

    ledger.open(one)
    ledger.on_close = accept_next
    ledger.close(one)
    assert list(ledger) == [two]


def test_an_error_in_on_close_finds_the_connection_closed() -> None:
    ledger = Ledger[Connection]()
    one = Connection("1")

    def fail() -> None:
        raise RuntimeError("no")

    ledger.open(one)
    ledger.on_close = fail
    with pytest.raises(RuntimeError, match="no"):
        ledger.close(one)
    assert len(ledger) == 0


def test_iteration_is_a_snapshot() -> None:
    ledger = Ledger[Connection]()
    connections = [Connection(str(n)) for n in range(10)]
    for connection in connections:
        ledger.open(connection)
    walked = []
    for connection in ledger:
        walked.append(connection)
        ledger.close(connection)
        ledger.open(Connection("new"))
    assert walked == connections
    assert len(ledger) == 10


def test_counters_are_apart_from_the_entries() -> None:
    ledger = Ledger[Connection]()
    ledger.count_refused("shut")
    ledger.count_refused("full")
    ledger.count_failed()
    assert (ledger.accepted, ledger.refused, ledger.failed, len(ledger)) == (0, 2, 1, 0)
    assert repr(ledger) == "<Ledger: 0 open, 0 accepted, 2 refused, 1 failed>"


def test_handshakes_are_counted_apart_from_the_entries() -> None:
    ledger = Ledger[Connection]()
    one = Connection("1")
    assert (ledger.handshakes, ledger.failed_handshakes) == (0, 0)
    ledger.open(one)
    ledger.count_handshake()
    ledger.count_handshake()
    ledger.count_failed_handshake()
    ledger.close(one)
    assert (ledger.handshakes, ledger.failed_handshakes) == (2, 1)
    assert (ledger.accepted, ledger.refused, ledger.failed, len(ledger)) == (1, 0, 0, 0)


def test_takes_no_other_attribute() -> None:
    with pytest.raises(AttributeError):
        Ledger[Connection]().opened = 1  # type: ignore[attr-defined]


def test_memory_of_one_entry() -> None:
    connections = [Connection("") for _ in range(9000)]
    ledger = Ledger[Connection]()
    tracemalloc.start()
    try:
        for connection in connections:
            ledger.open(connection)
        used, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert used / len(connections) < 64
