"""Framing: what comes out is what went in, however the wire is cut, and at a linear cost."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ginsfsm.net.cutter import Cutter
from ginsfsm.net.framing import FrameError, Framing, framing_fault, make_framing, read_framing

MAX = 40
"""So small that hypothesis comes to it."""

PREFIXES = {"uint8": (1, "big"), "uint16": (2, "big"), "uint32le": (4, "little")}
DELIMITERS = [b"\0", b"||", b"aab", b"abab", b"x" * 64]
VALUES: list[Any] = ["lines", "crlf", *DELIMITERS, *PREFIXES, "netstrings", 1, 7]

# A fixed size takes whatever comes.
REFUSING = [one for one in VALUES if not isinstance(one, int)]

# Few different bytes, so that delimiters, digits and their parts come up by chance.
dense = st.lists(st.sampled_from(b"ab|x\r\n.\0\x010123:,")).map(bytes)
payloads = st.one_of(dense, st.binary(max_size=MAX + 5))
cuts = st.lists(st.integers(0, 400), max_size=12)


def pieces(wire: bytes, at: list[int]) -> Iterator[bytes]:
    """The wire, cut at these places; some pieces are empty."""
    edges = [0, *sorted(min(one, len(wire)) for one in at), len(wire)]
    for start, end in pairwise(edges):
        yield wire[start:end]


def delimiter_of(value: object) -> bytes:
    if isinstance(value, bytes):
        return value
    return b"\r\n" if value == "crlf" else b"\n"


# -- the same, as simple as can be -----------------------------------------------------------------


def one_frame(value: Any, wire: bytes, limit: int) -> tuple[bytes, int] | None:
    """The first frame and its bytes on the wire, None for too few. Raises ValueError for faults."""
    if value == "netstrings":
        for size in range(len(wire)):
            if size == len(str(limit)) + 1:
                break
            head = wire[:size]
            if wire[size] == ord(":") and head:
                end = size + 1 + int(head)
                if wire[end : end + 1] not in (b",", b""):
                    raise ValueError
                return (wire[size + 1 : end], end + 1) if end < len(wire) else None
            head = wire[: size + 1]
            if not head.isdigit() or str(int(head)) != head.decode() or int(head) > limit:
                raise ValueError
        return None
    if isinstance(value, int):
        return (wire[:value], value) if len(wire) >= value else None
    if value in PREFIXES:
        size, order = PREFIXES[value]
        if len(wire) < size:
            return None
        end = size + int.from_bytes(wire[:size], order)  # type: ignore[arg-type]
        if end - size > limit:
            raise ValueError
        return (wire[size:end], end) if len(wire) >= end else None
    delimiter = delimiter_of(value)
    at = wire.find(delimiter)
    if at >= 0:
        frame = wire[:at]
        if value == "lines" and frame.endswith(b"\r"):
            frame = frame[:-1]
        if len(frame) > limit:
            raise ValueError
        return frame, at + len(delimiter)
    ends = [delimiter, b"\r\n"] if value == "lines" else [delimiter]
    if len(wire) > limit and not any(
        (wire[:size] + end).startswith(wire) for size in range(limit + 1) for end in ends
    ):
        raise ValueError
    return None


def expected(value: Any, wire: bytes, limit: int) -> tuple[list[bytes], bool, bytes]:
    """The frames in it, whether it is faulty after them, and if not, what is left."""
    frames: list[bytes] = []
    while wire:
        try:
            found = one_frame(value, wire, limit)
        except ValueError:
            return frames, True, b""
        if found is None:
            break
        frames.append(found[0])
        wire = wire[found[1] :]
    return frames, False, wire


def outcome(
    framing: Framing, wire: bytes, at: list[int]
) -> tuple[list[bytes], bool, bytes, str | None]:
    """What really comes out, with the text of the error."""
    frames: list[bytes] = []
    for piece in pieces(wire, at):
        try:
            frames += framing.split(piece)
        except FrameError as error:
            return frames + error.frames, True, framing.rest(), str(error)
    return frames, False, framing.rest(), None


# -- properties ------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", VALUES)
@given(wanted=st.lists(payloads), at=cuts)
def test_what_goes_in_comes_out(value: Any, wanted: list[bytes], at: list[int]) -> None:
    if isinstance(value, int):
        wanted = [frame.ljust(value)[:value] for frame in wanted]
    framing = make_framing(value, MAX)
    sent: list[bytes] = []
    wire = b""
    for frame in wanted:
        try:
            wire += framing.wrap(frame)
        except FrameError:
            continue
        sent.append(frame)
    assert outcome(framing, wire, at) == (sent, False, b"", None)


@pytest.mark.parametrize("value", VALUES)
@given(frame=payloads, before=payloads, after=payloads)
def test_what_cannot_be_sent_is_refused(
    value: Any, frame: bytes, before: bytes, after: bytes
) -> None:
    framing = make_framing(value, MAX)
    legal = []
    for one in (before, frame, after):
        try:
            legal.append((one, framing.wrap(one)))
        except FrameError:
            # What is refused would not come out.
            if len(one) <= MAX and value in ("lines", "crlf", *DELIMITERS):
                end = delimiter_of(value)
                assert expected(value, one + end, MAX)[0] != [one]
            else:
                assert len(one) != value if isinstance(value, int) else len(one) > MAX
    wire = b"".join(one for _, one in legal)
    assert framing.split(wire) == [one for one, _ in legal]


@pytest.mark.parametrize("value", VALUES)
@given(
    limit=st.sampled_from([1, 3, 10, MAX]),
    wire=st.one_of(dense, st.binary(max_size=200)),
    at=cuts,
)
def test_any_bytes_however_cut(value: Any, limit: int, wire: bytes, at: list[int]) -> None:
    if isinstance(value, int):
        limit = value
    frames, failed, rest, sentence = outcome(make_framing(value, limit), wire, at)
    assert (frames, failed, rest) == expected(value, wire, limit)
    assert all(type(frame) is bytes and len(frame) <= limit for frame in frames)
    # And the same sentence too.
    assert outcome(make_framing(value, limit), wire, [])[3] == sentence
    assert outcome(make_framing(value, limit), wire, list(range(len(wire))))[3] == sentence


@pytest.mark.parametrize("value", VALUES)
@given(wire=dense)
def test_what_can_be_no_frame_is_refused_at_its_first_byte(value: Any, wire: bytes) -> None:
    limit = value if isinstance(value, int) else 3
    framing = make_framing(value, limit)
    for number in range(len(wire)):
        try:
            framing.split(wire[number : number + 1])
        except FrameError:
            assert expected(value, wire[: number + 1], limit)[1]
            break
        assert not expected(value, wire[: number + 1], limit)[1]


@pytest.mark.parametrize("value", VALUES)
@given(wire=st.binary(max_size=300), at=cuts)
def test_no_more_is_held_than_a_frame_and_its_end(value: Any, wire: bytes, at: list[int]) -> None:
    limit = value if isinstance(value, int) else 10
    framing = make_framing(value, limit)
    assert isinstance(framing, Cutter)
    around = len(value) if isinstance(value, bytes) else 8
    try:
        for piece in pieces(wire, at):
            framing.split(piece)
            assert len(framing._held) < limit + around
    except FrameError:
        assert len(framing._held) == 1


@pytest.mark.parametrize("value", VALUES)
@given(wire=payloads, more=payloads, at=cuts)
def test_it_is_empty_after_rest(value: Any, wire: bytes, more: bytes, at: list[int]) -> None:
    framing = make_framing(value, MAX)
    _, failed, rest, _ = outcome(framing, wire, at)
    assert framing.rest() == b""
    if not failed:
        # What is left can be given to another, as if it had received it itself.
        assert outcome(framing, more, at) == outcome(make_framing(value, MAX), more, at)
        other = make_framing(value, MAX)
        assert other.split(rest) == []
        assert other.rest() == rest


# -- limits ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", REFUSING)
@pytest.mark.parametrize("bytewise", [True, False])
def test_a_frame_of_the_limit_comes_and_one_more_byte_does_not(value: Any, bytewise: bool) -> None:
    wire = make_framing(value, MAX + 1).wrap(b"-" * (MAX + 1))
    at = list(range(len(wire))) if bytewise else []
    good = make_framing(value, MAX).wrap(b"-" * MAX)
    framing = make_framing(value, MAX)
    frames, failed, rest, sentence = outcome(framing, good + wire, at)
    assert frames == [b"-" * MAX]
    assert failed
    assert rest == b""
    assert sentence is not None
    assert f"max_frame={MAX}" in sentence
    with pytest.raises(FrameError, match=f"{MAX + 1} bytes to send, more than max_frame={MAX}"):
        framing.wrap(b"-" * (MAX + 1))


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_the_end_of_a_line_does_not_count(end: bytes) -> None:
    line = b"-" * MAX
    for cut in range(MAX, MAX + 3):
        assert outcome(make_framing("lines", MAX), line + end, [cut])[:3] == ([line], False, b"")
        assert outcome(make_framing("lines", MAX), line + end, [cut, cut])[0] == [line]


def test_a_line_that_does_not_end_is_refused_with_the_first_byte_too_many() -> None:
    framing = make_framing("lines", MAX)
    assert framing.split(b"first\r\n" + b"-" * MAX) == [b"first"]
    assert framing.split(b"\r") == []
    with pytest.raises(FrameError, match="more than max_frame=40 bytes was received"):
        framing.split(b"\r")


def test_a_length_too_large_is_refused_before_the_frame_comes() -> None:
    with pytest.raises(
        FrameError, match=r"a frame of 4294967295 bytes was announced, more than max_frame=40"
    ):
        make_framing("uint32", MAX).split(b"\xff\xff\xff\xff")
    with pytest.raises(FrameError, match="41 bytes or more was announced, more than max_frame=40"):
        make_framing("netstrings", MAX).split(b"41")


@pytest.mark.parametrize("value", REFUSING)
def test_a_refusal_is_final_and_its_frames_come_once(value: Any) -> None:
    framing = make_framing(value, 64)
    good = framing.wrap(b"good")
    bad = make_framing(value, 100).wrap(b"-" * 100)
    assert framing.split(good[:1]) == []
    with pytest.raises(FrameError) as caught:
        framing.split(good[1:] + good + bad + good)
    assert caught.value.frames == [b"good", b"good"]
    for data in (good, b""):
        with pytest.raises(FrameError) as again:
            framing.split(data)
        assert again.value.frames == []
        assert str(again.value) == str(caught.value)
    assert framing.rest() == b""
    # The other side has nothing to do with it.
    assert framing.wrap(b"good") == good


@pytest.mark.parametrize("value", ["lines", b"~", "uint8", "uint64le", "netstrings"])
def test_no_error_shows_what_was_received_or_sent(value: Any) -> None:
    secret = b"hunter2\r\n||aababab\0" * 9 + b"x" * 64
    framing = make_framing(value, 64)
    for use in (framing.split, framing.wrap):
        with pytest.raises(FrameError) as caught:
            use(secret)
        assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("wire", "sentence"),
    [
        (b":a,", "has no length before its colon"),
        (b"a:", "has a length that is no decimal number"),
        (b"1a:", "has a length that is no decimal number"),
        (b" 1:a,", "has a length that is no decimal number"),
        (b"+1:a,", "has a length that is no decimal number"),
        (b"-1:a,", "has a length that is no decimal number"),
        (b"1_0:", "has a length that is no decimal number"),
        (b"\xb2:ab,", "has a length that is no decimal number"),
        (b"01:a,", "has a length that begins with 0"),
        (b"00:,", "has a length that begins with 0"),
        (b"1:ab", "has no comma after its last byte"),
        (b"0:a", "has no comma after its last byte"),
        (b"1:a\n", "has no comma after its last byte"),
        (b"99999999999999999999", "a frame of 41 bytes or more was announced"),
    ],
)
def test_netstrings_are_what_their_grammar_says(wire: bytes, sentence: str) -> None:
    for at in ([], list(range(len(wire)))):
        frames, failed, _, error = outcome(make_framing("netstrings", MAX), b"2:ok," + wire, at)
        assert frames == [b"ok"]
        assert failed
        assert sentence in str(error)


def test_on_the_wire() -> None:
    wires = {
        "lines": b"abc\n",
        "crlf": b"abc\r\n",
        "uint8": b"\3abc",
        "uint16": b"\0\3abc",
        "uint32": b"\0\0\0\3abc",
        "uint64": b"\0\0\0\0\0\0\0\3abc",
        "uint16le": b"\3\0abc",
        "uint32le": b"\3\0\0\0abc",
        "uint64le": b"\3\0\0\0\0\0\0\0abc",
        "netstrings": b"3:abc,",
    }
    for value, wire in wires.items():
        framing = make_framing(value, MAX)
        assert framing.wrap(b"abc") == wire
        assert framing.split(wire) == [b"abc"]
        assert framing.split(framing.wrap(b"")) == [b""]
    assert make_framing(b"||", MAX).wrap(b"abc") == b"abc||"
    assert make_framing(3, MAX).wrap(b"abc") == b"abc"


def test_lines_take_both_ends_and_one_cr_of_each() -> None:
    lines = make_framing("lines", MAX)
    assert lines.split(b"a\nb\r\n\r\n\nc\r\r\nd\re\n\r") == [b"a", b"b", b"", b"", b"c\r", b"d\re"]
    assert lines.split(b"\n") == [b""]
    crlf = make_framing("crlf", MAX)
    assert crlf.split(b"a\nb\rc\r\n\r") == [b"a\nb\rc"]
    assert crlf.split(b"\r\n") == [b"\r"]


@pytest.mark.parametrize(
    ("value", "frame", "sentence"),
    [
        ("lines", b"a\nb", r"3 bytes to send that holds the delimiter b'\\n'"),
        ("lines", b"a\r", "2 bytes to send with CR at its end"),
        ("crlf", b"a\r\nb", r"4 bytes to send that holds the delimiter b'\\r\\n'"),
        (b"||", b"a|", r"2 bytes to send that holds the delimiter b'\|\|', or makes one"),
        (7, b"abc", "3 bytes to send, where each has 7"),
        (2, b"abc", "3 bytes to send, where each has 2"),
    ],
)
def test_why_a_frame_cannot_be_sent(value: Any, frame: bytes, sentence: str) -> None:
    with pytest.raises(FrameError, match=sentence):
        make_framing(value, MAX).wrap(frame)


@pytest.mark.parametrize(
    ("value", "most"), [("uint8", 255), ("uint16", 65535), ("uint16le", 65535)]
)
def test_a_frame_too_long_for_its_prefix(value: str, most: int) -> None:
    framing = make_framing(value, 1_000_000)
    assert framing.split(framing.wrap(bytes(most))) == [bytes(most)]
    with pytest.raises(FrameError, match=rf"{most + 1} bytes to send, .* so is {most} at most"):
        framing.wrap(bytes(most + 1))


# -- the parameter ---------------------------------------------------------------------------------


class Words:
    """A user's own: words with spaces between them."""

    def __init__(self, max_frame: int) -> None:
        self.max_frame = max_frame
        self.held = b""

    def split(self, data: bytes) -> list[bytes]:
        *frames, self.held = (self.held + data).split(b" ")
        return frames

    def wrap(self, frame: bytes) -> bytes:
        return frame + b" "

    def rest(self) -> bytes:
        held, self.held = self.held, b""
        return held


@pytest.mark.parametrize("value", [Words, lambda size: Words(size)])
def test_a_users_own(value: Callable[[int], Framing]) -> None:
    assert framing_fault(value) is None
    made = make_framing(value, MAX)
    assert isinstance(made, Words)
    assert made.max_frame == MAX
    assert made.split(b"one two thr") == [b"one", b"two"]
    assert made.rest() == b"thr"
    assert make_framing(value, MAX) is not made


def test_a_users_own_that_makes_no_framing() -> None:
    with pytest.raises(
        ValueError,
        match=r"framing: bytes\(40\) returned a bytes, expected an object with the methods split, ",
    ):
        make_framing(bytes, MAX)
    with pytest.raises(ValueError, match=r"<lambda>\(40\) returned None"):
        make_framing(lambda _: None, MAX)


@pytest.mark.parametrize("value", ["", *VALUES, "uint32", "uint64", "uint16le", "uint64le"])
def test_legal_values(value: object) -> None:
    assert framing_fault(value) is None
    assert framing_fault(value, MAX) is None
    if value != "":
        assert isinstance(make_framing(value, MAX), Framing)


LEGAL = (
    "expected '' for none, one of 'lines', 'crlf', 'netstrings', 'uint8', 'uint16', 'uint32', "
    "'uint64', 'uint16le', 'uint32le', 'uint64le', a delimiter of 1 to 64 bytes such as b'\\0', a "
    "fixed size as a whole number from 1, or a class or function that takes max_frame and returns "
    "a Framing (split, wrap and rest)"
)


@pytest.mark.parametrize(
    ("value", "begin"),
    [
        ("line", "'line' (str) is no framing; did you mean 'lines'?; "),
        ("LINES", "'LINES' (str) is no framing; did you mean 'lines'?; "),
        (";", "';' (str) is no framing; a delimiter is given as bytes; "),
        (b"", "a delimiter of 0 bytes was given; "),
        (b"x" * 65, "a delimiter of 65 bytes was given; "),
        (0, "a fixed size of 0 was given; "),
        (-3, "a fixed size of -3 was given; "),
        (True, "True (bool) was given; "),
        (False, "False (bool) was given; "),
        (1.5, "1.5 (float) was given; "),
        (None, "None was given; "),
        ([], "an empty list was given; "),
        (bytearray(b"x"), "a bytearray was given; "),
        (Words(1), "a Words was given, one framing for all connections, where each needs its own"),
    ],
)
def test_illegal_values(value: object, begin: str) -> None:
    fault = framing_fault(value)
    assert fault is not None
    assert fault.startswith(begin)
    assert fault.endswith(LEGAL)
    with pytest.raises(ValueError, match="^framing: ") as caught:
        make_framing(value, MAX)
    assert str(caught.value) == f"framing: {fault}"


@pytest.mark.parametrize(
    ("said", "value"),
    [("", ""), ("lines", "lines"), ("uint32", "uint32"), (7, 7), ("7", 7), ("0128", 128)],
)
def test_what_settings_say(said: object, value: object) -> None:
    assert read_framing(said) == value


@pytest.mark.parametrize(
    ("said", "begin"),
    [
        ("line", "'line' (str) is no framing; did you mean 'lines'?; "),
        (";", "';' (str) is no framing; "),
        ("0", "0 (int) is no framing; "),
        ("-7", "'-7' (str) is no framing; "),
        ("1.5", "'1.5' (str) is no framing; "),
        ("²", "'²' (str) is no framing; "),
        (0, "0 (int) is no framing; "),
        (True, "True (bool) is no framing; "),
        (["lines"], "a list is no framing; "),
        (b"x", "a bytes is no framing; "),
    ],
)
def test_what_settings_cannot_say(said: object, begin: str) -> None:
    with pytest.raises(ValueError) as caught:
        read_framing(said)
    assert str(caught.value) == (
        f"{begin}in settings expected '' for none, one of 'lines', 'crlf', 'netstrings', 'uint8', "
        "'uint16', 'uint32', 'uint64', 'uint16le', 'uint32le', 'uint64le', or a fixed size as a "
        "whole number from 1; a delimiter or a class can be given only in the code"
    )


def test_a_fixed_size_above_the_limit() -> None:
    assert framing_fault(MAX + 1) is None
    fault = framing_fault(MAX + 1, MAX)
    assert (
        fault
        == "a fixed size of 41 bytes was given, more than max_frame=40: give a larger max_frame"
    )
    with pytest.raises(ValueError, match="^framing: a fixed size of 41 bytes"):
        make_framing(MAX + 1, MAX)


@pytest.mark.parametrize("limit", [0, -1, True, 1.0, "1"])
def test_illegal_limits(limit: Any) -> None:
    with pytest.raises(ValueError, match=r"max_frame=.*: expected a whole number of bytes from 1"):
        make_framing("lines", limit)


def test_none_is_not_made() -> None:
    with pytest.raises(ValueError, match="framing='' is none, so there is nothing to make"):
        make_framing("", MAX)


# -- cost ------------------------------------------------------------------------------------------

COSTED: list[Any] = ["lines", "crlf", b"x" * 63 + b"-", "uint8", "uint32", "netstrings", 5]


def seconds(work: Callable[[], object]) -> float:
    """The least of several, in CPU time: what others do on this machine shall not count."""
    best = float("inf")
    gc.disable()
    try:
        for _ in range(4):
            start = time.process_time()
            work()
            best = min(best, time.process_time() - start)
    finally:
        gc.enable()
    return best


def assert_linear(work: Callable[[int], Callable[[], object]], size: int) -> None:
    """Four times the bytes take less than eight times as long; quadratic would be sixteen."""
    assert seconds(work(4 * size)) < 8 * seconds(work(size))


@pytest.mark.parametrize("value", [one for one in COSTED if one != "uint8"])
def test_a_long_frame_byte_by_byte_costs_a_linear_time(value: Any) -> None:
    def work(size: int) -> Callable[[], object]:
        # Half a delimiter as often as can be, for those that search.
        body = value[:-1] * size if isinstance(value, bytes) else b"\r" * size
        frame = body[: size - 1] + b"="
        framing = make_framing(size if value == 5 else value, size)
        wire = framing.wrap(frame)
        single = [wire[at : at + 1] for at in range(len(wire))]

        def run() -> None:
            frames: list[bytes] = []
            for piece in single:
                frames += framing.split(piece)
            assert frames == [frame]

        return run

    assert_linear(work, 40_000)


@pytest.mark.parametrize("value", COSTED)
@pytest.mark.parametrize("limit", [5, 1_000_000_000])
def test_many_frames_in_one_piece_cost_a_linear_time(value: Any, limit: int) -> None:
    def work(count: int) -> Callable[[], object]:
        framing = make_framing(value, limit)
        # A part of one more before and behind, so that nothing fits.
        wire = framing.wrap(b"12345") * (count + 1)

        def run() -> None:
            frames = framing.split(wire[:2])
            frames += framing.split(wire[2:-2])
            assert len(frames) == count
            assert framing.split(wire[-2:]) == [b"12345"]

        return run

    assert_linear(work, 10_000)


@pytest.mark.parametrize("value", [one for one in COSTED if one != "uint8"])
def test_a_large_frame_in_one_piece(value: Any) -> None:
    size = 10_000_000
    framing = make_framing(size if value == 5 else value, size)
    frame = bytes(size)
    wire = framing.wrap(frame)
    assert framing.split(wire) == [frame]
    assert framing.split(wire[:-1]) == []
    assert framing.split(wire[-1:] + wire) == [frame, frame]
