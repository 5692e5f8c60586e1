"""The limit per kind: the first records pass, the others are counted, and that is said."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import pytest

from ginsfsm.logs import kind_limit
from ginsfsm.logs.kind_limit import KindLimit

DEADLINE = 10.0


class Kept(logging.Handler):
    """A handler with a limit; keeps what passes."""

    def __init__(self, records: int, seconds: float) -> None:
        super().__init__()
        self.kept: list[logging.LogRecord] = []
        self.arrived = threading.Condition()
        self.limit = KindLimit(self.handle, records=records, seconds=seconds)
        self.addFilter(self.limit)

    def emit(self, record: logging.LogRecord) -> None:
        with self.arrived:
            self.kept.append(record)
            self.arrived.notify_all()

    @property
    def messages(self) -> list[str]:
        return [record.getMessage() for record in self.kept]

    def wait_for(self, condition: Callable[[], bool]) -> None:
        with self.arrived:
            assert self.arrived.wait_for(condition, DEADLINE), self.messages

    def sums(self) -> list[int]:
        return [int(vars(one)["held_back"]) for one in self.kept if hasattr(one, "held_back")]


Make = Callable[[int, float], tuple[logging.Logger, Kept]]


@pytest.fixture
def make() -> Iterator[Make]:
    logger = logging.getLogger("ginsfsm.tests.limit")
    logger.propagate = False
    logger.setLevel(logging.DEBUG)
    made: list[Kept] = []

    def _make(records: int, seconds: float = 3600.0) -> tuple[logging.Logger, Kept]:
        handler = Kept(records, seconds)
        made.append(handler)
        logger.addHandler(handler)
        return logger, handler

    yield _make  # type: ignore[misc]
    for handler in made:
        handler.limit.close()
        logger.removeHandler(handler)
    no_thread_is_left()


def no_thread_is_left() -> None:
    end = time.monotonic() + DEADLINE
    while "ginsfsm log limit" in {thread.name for thread in threading.enumerate()}:
        assert time.monotonic() < end
        time.sleep(0.001)


def test_the_first_ones_pass_and_the_end_says_how_many_did_not(make: Make) -> None:
    logger, handler = make(3, 3600.0)
    for number in range(10):
        logger.info("%s: number %d", "app", number)
    assert handler.messages == [f"app: number {number}" for number in range(3)]
    handler.limit.close()
    last = handler.kept[-1]
    assert last.getMessage() == "7 more like this were held back within 3600 s: %s: number %d"
    assert (last.levelno, last.name) == (logging.INFO, logger.name)
    assert handler.sums() == [7]
    assert handler.limit.held_back == 7


def test_it_is_said_when_the_interval_is_over_though_nothing_more_comes(make: Make) -> None:
    logger, handler = make(1, 0.05)
    for _ in range(5):
        logger.info("again")
    handler.wait_for(lambda: bool(handler.sums()))
    assert handler.sums() == [4]
    # The thread has gone: it comes only for what is held back.
    no_thread_is_left()


def test_the_next_interval_begins_anew(make: Make) -> None:
    logger, handler = make(2, 0.05)
    for _ in range(5):
        logger.info("again")
    handler.wait_for(lambda: handler.sums() == [3])
    time.sleep(0.05)
    logger.info("again")
    assert handler.messages[-1] == "again"


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time that the limit sees, in its one element."""
    found = [0.0]
    monkeypatch.setattr(kind_limit, "time", SimpleNamespace(monotonic=lambda: found[0]))
    return found


def test_every_interval_has_its_limit(make: Make, now: list[float]) -> None:
    logger, handler = make(2, 3600.0)
    for number in range(3):
        now[0] = 3600.0 * number
        for _ in range(5):
            logger.info("again")
    handler.limit.close()
    assert handler.messages.count("again") == 2 * 3
    assert handler.sums() == [3, 3, 3]


def test_a_kind_that_makes_room_is_told_of_before(
    make: Make, now: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kind_limit, "MAX_KINDS", 2)
    logger, handler = make(1, 3600.0)
    for text in ("first", "first", "first", "second"):
        logger.info(text)
    now[0] = 3600.0
    logger.info("third")
    handler.limit.close()
    assert handler.sums() == [2]


def test_what_an_operator_asked_for_is_whole(make: Make) -> None:
    _, handler = make(1, 3600.0)
    for name in ("ginsfsm.watch", "ginsfsm"):
        for _ in range(5):
            handler.handle(logging.makeLogRecord({"name": name, "msg": "stats"}))
    assert [record.name for record in handler.kept] == ["ginsfsm.watch"] * 5 + ["ginsfsm"]


class Talkative(str):
    """A format whose use logs, as a destructor does that the garbage collector calls."""

    __slots__ = ("log",)
    log: Callable[[str], object]

    def __hash__(self) -> int:
        self.log("meanwhile")
        return super().__hash__()


def test_a_record_in_the_middle_of_another_one() -> None:
    passed: list[str] = []
    limit = KindLimit(lambda record: None, records=1)

    def log(text: str) -> None:
        if limit.filter(logging.makeLogRecord({"name": "ginsfsm", "msg": text})):
            passed.append(str(text))

    text = Talkative("again")
    text.log = log
    thread = threading.Thread(target=log, args=(text,), daemon=True)
    thread.start()
    thread.join(DEADLINE)
    assert not thread.is_alive(), "it waits for its own lock"
    assert passed == ["meanwhile", "again"]
    limit.close()


def test_kinds_are_counted_apart(make: Make) -> None:
    logger, handler = make(1, 3600.0)
    for _ in range(3):
        logger.info("one %d", 1)
        logger.warning("one %d", 1)
        logger.info("two")
        for error in (ValueError("x"), TypeError("y")):
            try:
                raise error
            except Exception:
                logger.exception("failed")
    assert [(one.levelname, one.getMessage()) for one in handler.kept] == [
        ("INFO", "one 1"),
        ("WARNING", "one 1"),
        ("INFO", "two"),
        ("ERROR", "failed"),
        ("ERROR", "failed"),
    ]


def test_two_faults_in_two_places_are_two_kinds(make: Make) -> None:
    logger, handler = make(1, 3600.0)
    for _ in range(2):
        try:
            raise ValueError("here")
        except ValueError:
            logger.exception("failed")
        try:
            raise ValueError("there")
        except ValueError:
            logger.exception("failed")
    assert [str(one.exc_info[1]) for one in handler.kept if one.exc_info] == ["here", "there"]


def test_the_log_of_the_program_itself_is_whole(make: Make) -> None:
    _, handler = make(1, 3600.0)
    for name, passes in (("shop", 5), ("ginsfsmore", 5), ("asyncio", 1), ("ginsfsm", 1)):
        one = logging.LogRecord(name, logging.INFO, "", 0, "sold", (), None)
        assert sum(handler.limit.filter(one) for _ in range(5)) == passes, name


def test_texts_without_end_are_one_kind_when_there_are_too_many(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kind_limit, "MAX_KINDS", 10)
    logger, handler = make(2, 3600.0)
    for number in range(100):
        logger.info(f"text {number}")  # noqa: G004  (what a user does who knows no better)
    assert handler.messages == [f"text {number}" for number in range(12)]
    handler.limit.close()
    assert handler.sums() == [88]
    assert handler.messages[-1].endswith(": records of many kinds")


def test_kinds_of_long_ago_make_room(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kind_limit, "MAX_KINDS", 10)
    logger, handler = make(1, 0.001)
    for number in range(100):
        logger.info(f"text {number}")  # noqa: G004
        time.sleep(0.0011)
    assert len(handler.kept) == 100
    assert len(handler.limit._kinds) <= 11


def test_no_record_is_lost_from_the_count_with_threads_and_intervals(make: Make) -> None:
    logger, handler = make(3, 0.002)
    threads = [
        threading.Thread(target=lambda: [logger.info("it") for _ in range(2000)]) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    handler.limit.close()
    passed = sum(not hasattr(one, "held_back") for one in handler.kept)
    assert passed + sum(handler.sums()) == 8000
    assert handler.limit.held_back == sum(handler.sums()) > 0


@pytest.mark.parametrize(("records", "seconds"), [(0, 1.0), (1, 0.0)])
def test_a_limit_that_is_none_is_an_error(records: int, seconds: float) -> None:
    with pytest.raises(ValueError, match="expected one record or more and more than 0 s"):
        KindLimit(print, records=records, seconds=seconds)
