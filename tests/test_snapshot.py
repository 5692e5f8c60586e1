"""Snapshots add up: in any order, in any groups, and nothing is lost on the way as JSON."""

import json
from collections.abc import Sequence

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ginsfsm import GAplic
from ginsfsm.snapshot import Snapshot, SnapshotError, merge, snapshot
from ginsfsm.stats import GAUGES, MAXIMA, GaplicStats, ServerStats
from servers import Keeper, serve

NUMBERS = st.integers(0, 2**70)
COUNTS = st.dictionaries(st.sampled_from(["full", "rate", "EMFILE"]), NUMBERS)
SECONDS = st.floats(0, 1e6)


def stats_of(kind: type, fields: dict[str, st.SearchStrategy[object]]) -> st.SearchStrategy[object]:
    others = {name: NUMBERS for name in kind.__struct_fields__ if name not in fields}  # type: ignore[attr-defined]
    return st.builds(kind, **others, **fields)


SNAPSHOTS = st.builds(
    Snapshot,
    gaplic=stats_of(GaplicStats, {"longest_turn_seconds": SECONDS}),
    servers=st.dictionaries(
        st.sampled_from(["app/a", "app/b", "app/c"]),
        stats_of(ServerStats, {"refused": COUNTS, "accept_errors": COUNTS}),
    ),
)


@given(st.lists(SNAPSHOTS, max_size=5), st.randoms())
def test_the_order_does_not_matter(found: list[Snapshot], random: object) -> None:
    shuffled = list(found)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert merge(shuffled) == merge(found)


@given(st.lists(SNAPSHOTS, max_size=5), st.integers(0, 5))
def test_the_sum_of_sums_is_the_sum(found: list[Snapshot], cut: int) -> None:
    assert merge([merge(found[:cut]), merge(found[cut:])]) == merge(found)


@given(SNAPSHOTS)
def test_one_alone_is_its_sum_and_nothing_adds_nothing(one: Snapshot) -> None:
    assert merge([one]) == one
    assert merge([one, merge([])]) == one


@given(st.lists(SNAPSHOTS, min_size=1, max_size=4))
def test_each_number_is_the_sum_or_the_largest(found: list[Snapshot]) -> None:
    total = merge(found)
    for name in GaplicStats.__struct_fields__:
        each = [getattr(one.gaplic, name) for one in found]
        assert getattr(total.gaplic, name) == (max(each) if name in MAXIMA else sum(each))
    assert set(total.servers) == {path for one in found for path in one.servers}
    for path, server in total.servers.items():
        parts = [one.servers[path] for one in found if path in one.servers]
        for name in ServerStats.__struct_fields__:
            if name in ("refused", "accept_errors"):
                words = {word for one in parts for word in getattr(one, name)}
                assert getattr(server, name) == {
                    word: sum(getattr(one, name).get(word, 0) for one in parts) for word in words
                }
            else:
                assert getattr(server, name) == sum(getattr(one, name) for one in parts)


@given(SNAPSHOTS)
def test_it_survives_the_way_as_json(one: Snapshot) -> None:
    assert Snapshot.of_dict(json.loads(json.dumps(one.as_dict()))) == one


@given(SNAPSHOTS, SNAPSHOTS)
def test_of_what_has_ended_the_counters_stay(dead: Snapshot, alive: Snapshot) -> None:
    total = merge([dead.ended(), alive])
    with_both = merge([dead, alive])
    for before, after in [
        (with_both.gaplic, total.gaplic),
        *((with_both.servers[path], total.servers[path]) for path in with_both.servers),
    ]:
        for name in before.__struct_fields__:
            if name not in GAUGES | {"closed"}:
                assert getattr(after, name) == getattr(before, name), name
    assert total.gaplic.processes == alive.gaplic.processes
    for path, server in total.servers.items():
        assert server.open == (alive.servers[path].open if path in alive.servers else 0)
        # What it had open has ended with it, so that `accepted` is `closed + open` for ever.
        both = with_both.servers[path]
        assert server.closed + server.open == both.closed + both.open


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (None, "Expected `object`, got `null`"),
        ([], "Expected `object`, got `array`"),
        ({"gaplic": {"gobjs": "3"}}, "Expected `int`, got `str`"),
        ({"servers": {"a": {"accepted": 1.5}}}, "Expected `int`, got `float`"),
    ],
)
def test_what_is_no_snapshot_is_told(given: object, said: str) -> None:
    with pytest.raises(SnapshotError, match="expected a snapshot as Snapshot.as_dict") as caught:
        Snapshot.of_dict(given)
    assert said in str(caught.value)


def test_numbers_of_a_newer_version_are_left_out() -> None:
    """During a roll to one, the parent is the older."""
    given = {"servers": {"a": {"open": 1, "unheard": 2}}, "gaplic": {"new": 1}, "more": 0}
    assert Snapshot.of_dict(given) == Snapshot(servers={"a": ServerStats(open=1)})


def test_it_has_every_server_of_the_tree_by_its_path() -> None:
    app = GAplic("app")
    one = app.create_gobj("one", Keeper, app)
    two = app.create_gobj("two", Keeper, app)
    try:
        first, second = serve(one), serve(two, "gate")
        taken = snapshot(app)
        assert list(taken.servers) == ["app/one/server", "app/two/gate"]
        assert taken.gaplic.gobjs == 5
        assert taken.gaplic.processes == 1
        one.destroy_gobj(first)
        assert list(snapshot(app).servers) == [second.path]
    finally:
        app.destroy_gobj(app)


def test_it_cannot_be_changed() -> None:
    taken: Sequence[msgspec.Struct] = [Snapshot(), GaplicStats(), ServerStats()]
    for one in taken:
        with pytest.raises(AttributeError, match="immutable type"):
            setattr(one, one.__struct_fields__[0], 1)
