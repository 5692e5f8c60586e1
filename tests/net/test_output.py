"""The output queue: what goes in comes out, once and in order, however it is cut."""

from __future__ import annotations

import tracemalloc

from hypothesis import given
from hypothesis import strategies as st

from ginsfsm.net.output import BLOCK, IOV_SIZE, SMALL, OutputQueue

payloads = st.one_of(
    st.binary(max_size=20),
    st.binary(min_size=SMALL - 1, max_size=SMALL + 1),
    st.builds(lambda byte: bytes([byte]) * (BLOCK + 3), st.integers(0, 255)),
)


@given(st.lists(st.tuples(st.sampled_from(["append", "send"]), payloads, st.floats(0, 1))))
def test_what_goes_in_comes_out_once_and_in_order(
    steps: list[tuple[str, bytes, float]],
) -> None:
    queue = OutputQueue()
    put = b""
    got = b""
    for step, data, share in steps:
        if step == "append":
            queue.append(data)
            put += data
        else:
            offered = b"".join(queue.first())
            taken = int(len(offered) * share)
            got += offered[:taken]
            queue.sent(taken)
        assert queue.size == len(put) - len(got)
    while queue.size:
        offered = b"".join(queue.first())
        got += offered
        queue.sent(len(offered))
    assert got == put
    assert queue.first() == []


def test_a_large_message_is_not_copied() -> None:
    queue = OutputQueue()
    message = bytes(10 * BLOCK)
    queue.append(message)
    queue.sent(BLOCK)
    (rest,) = queue.first()
    assert isinstance(rest, memoryview)
    assert rest.obj is message


def test_one_send_gets_no_more_pieces_than_every_system_takes() -> None:
    queue = OutputQueue()
    for _ in range(2 * IOV_SIZE):
        queue.append(bytes(SMALL))
    assert len(queue.first()) == IOV_SIZE


def test_small_payloads_take_little_more_memory_than_their_bytes() -> None:
    queue = OutputQueue()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for _ in range(100_000):
            queue.append(b"0123456789")
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert queue.size == 1_000_000
    assert after - before < 1.3 * queue.size
