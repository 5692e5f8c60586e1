"""Families: the numbers of a snapshot by the names that Prometheus' conventions ask for.

Counters end in `_total`, units are seconds and bytes, and a label takes few values: the path of a
server, a reason of `Refusal`, the name of an error. Reasons that did not occur are there with 0, so
that a rate can be had of the first one. `docs/metrics.md` has the same table for people, and a test
that compares the two.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from ginsfsm.net.admission import Refusal
from ginsfsm.snapshot import Snapshot
from ginsfsm.stats import ServerStats, add_stats

__all__ = ["MAX_SERVERS", "OTHERS", "families"]

MAX_SERVERS: Final = 100
"""Servers with a label of their own. Each makes some 25 time series, and a Prometheus with a
million of them is a large one."""

OTHERS: Final = "(others)"
"""The label of the sum of all servers beyond those; no path looks like that."""

_GAPLIC: Final = (
    ("processes", "", "Processes that these numbers are the sum of."),
    ("gobjs", "", "Gobjs in the tree."),
    ("posted_events", "", "Posted events that wait for their delivery."),
    ("dropped_posts", "posted_events_dropped", "Posted events whose destination had gone."),
    ("refused_events", "events_refused", "Events that the present state did not accept."),
    ("contained_errors", "errors_contained", "Exceptions of actions that reached the loop."),
    ("longest_turn_seconds", "", "The longest time that the loop was held by the gaplic."),
)
"""The field, the name of its metric where that is another one, and what it is. What the fields that
count are called is said here as well: a counter is a field with a name of its own."""

_SERVER: Final = (
    ("accepted", "connections_accepted", "Connections that were let in."),
    ("failed", "connections_failed", "Connections that failed while they were made."),
    ("rx_bytes", "received_bytes", "Bytes received, without what TLS adds."),
    ("tx_bytes", "sent_bytes", "Bytes that the kernel, or TLS, took."),
    ("rx_messages", "received_messages", "Messages received: frames, or what a receive gave."),
    ("tx_messages", "sent_messages", "Messages that were accepted to be sent."),
)


def families(snapshot: Snapshot) -> Iterator[Metric]:
    """Every metric of a snapshot, in the same order each time."""
    for field, name, text in _GAPLIC:
        kind = CounterMetricFamily if name else GaugeMetricFamily
        yield kind(f"ginsfsm_{name or field}", text, value=getattr(snapshot.gaplic, field))
    servers = _bounded(snapshot)
    yield _of_servers(
        GaugeMetricFamily, "connections_open", "Connections open now.", servers, "open"
    )
    yield _of_servers(
        GaugeMetricFamily, "send_queue_bytes", "Bytes that wait for the peers.", servers,
        "queued_bytes",
    )  # fmt: skip
    for field, name, text in _SERVER:
        yield _of_servers(CounterMetricFamily, name, text, servers, field)
    yield _labelled(
        "connections_refused", "Connections turned away.", "reason",
        {path: dict.fromkeys(Refusal, 0) | one.refused for path, one in servers.items()},
    )  # fmt: skip
    yield _labelled(
        "accept_errors", "Accepts that failed.", "error",
        {path: one.accept_errors for path, one in servers.items()},
    )  # fmt: skip
    yield _labelled(
        "tls_handshakes", "Handshakes of TLS that ended.", "result",
        {
            path: {"done": one.handshakes, "failed": one.failed_handshakes}
            for path, one in servers.items()
        },
    )  # fmt: skip


def _bounded(snapshot: Snapshot) -> dict[str, ServerStats]:
    servers = dict(sorted(snapshot.servers.items()))
    beyond = list(servers)[MAX_SERVERS:]
    if beyond:
        rest = ServerStats(**add_stats(servers.pop(path).as_dict() for path in beyond))
        servers[OTHERS] = rest
    return servers


def _of_servers(
    kind: Any, name: str, text: str, servers: dict[str, ServerStats], field: str
) -> Metric:
    family: Metric = kind(f"ginsfsm_server_{name}", text, labels=("server",))
    for path, one in servers.items():
        family.add_metric((path,), getattr(one, field))  # type: ignore[attr-defined]
    return family


def _labelled(name: str, text: str, label: str, found: dict[str, dict[str, int]]) -> Metric:
    family = CounterMetricFamily(f"ginsfsm_server_{name}", text, labels=("server", label))
    for path, counts in found.items():
        for value, count in sorted(counts.items()):
            family.add_metric((path, str(value)), count)
    return family
