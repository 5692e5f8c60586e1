"""Exporter: a server that tells a Prometheus what a gaplic has counted.

It is a GServerSock like every other, with a session (`Scrape`) for each scraper, and limits that
fit: few connections, and silence ends them. So whatever a scraper does, the program that is looked
at does not notice; and its own numbers stand on the page as well.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, ClassVar, Final, Protocol

from prometheus_client.core import Metric
from prometheus_client.exposition import choose_encoder

from ginsfsm.c_sock import EV_CONNECTED
from ginsfsm.c_srv_sock import EV_DRAINED, EV_DRAINING, EV_REFUSED, GServerSock
from ginsfsm.gconfig import param
from ginsfsm.gobj import GObj
from ginsfsm.metrics.families import families
from ginsfsm.metrics.scrape import Scrape
from ginsfsm.net.words import given
from ginsfsm.row import on
from ginsfsm.snapshot import Snapshot, Source, take

__all__ = ["Exporter", "Source"]

MAX_SCRAPERS: Final = 32
"""Connections at one time. A pair of Prometheus servers has two; who comes above is turned away."""

SILENCE: Final = 90.0
"""Seconds after which a scraper that says nothing, or reads nothing, is ended. The default interval
of Prometheus is 60."""


VERSION: Final = re.compile(r"version=(\d{1,9}(\.\d{1,9}){0,3})?", re.ASCII)


class _Registry(Protocol):
    def collect(self) -> Any: ...


class Exporter(GObj):
    """Serves /metrics, for Prometheus and whatever reads what it reads."""

    class config(GObj.config):
        """Where to listen, and what to tell."""

        host: str = param("127.0.0.1", "address to listen on; the page says how busy you are")
        port: int = param(9100, "port to listen on; 0 takes a free one", ge=0, le=65535)
        source: Any = param(None, "called for the snapshot; None is that of this gaplic")
        registry: Any = param(
            None, "prometheus_client registry with metrics of your own, told as well"
        )

        def misfits(self) -> Iterator[str]:
            """What is no source, or no registry."""
            if self.source is not None and not callable(self.source):
                yield f"source: expected a callable that gives a Snapshot, got {given(self.source)}"
            if self.registry is not None and not callable(getattr(self.registry, "collect", None)):
                yield (
                    "registry: expected one of prometheus_client, such as CollectorRegistry(), got "
                    f"{given(self.registry)}"
                )

    ends_last: ClassVar[bool] = True
    """A program that drains (see `ginsfsm.shutdown`) serves its numbers until it ends."""

    server: GServerSock

    def start_up(self) -> None:
        """Listen."""
        self.server = self.create_gobj(
            "server", GServerSock, self,
            host=self.config.host, port=self.config.port,
            session=Scrape, session_parameters={"page": self._page},
            max_connections=MAX_SCRAPERS, overflow="reject",
            first_data_timeout=10.0, idle_timeout=SILENCE, tx_max=0,
        )  # fmt: skip

    async def _page(self, accept: str) -> tuple[bytes, str]:
        found = await take(self.gaplic, self.config.source)
        encode, kind = choose_encoder(_legible(accept))
        return encode(_Collected(found, self.config.registry)), kind

    machine = {
        "ST_SERVING": [
            on(EV_CONNECTED, None),
            on(EV_REFUSED, None),
            on(EV_DRAINING, None),
            on(EV_DRAINED, None),
        ],
    }


def _legible(accept: str) -> str:
    """The header without the formats of which prometheus_client could not read the version.

    0.26 raises there, or sends what the scraper wrote back in a header, where it may not stand.
    """

    def is_legible(wanted: str) -> bool:
        parts = (part.strip() for part in wanted.split(";"))
        return all(VERSION.fullmatch(part) for part in parts if part.startswith("version="))

    return ",".join(filter(is_legible, accept.split(",")))


class _Collected:
    """What the encoders of prometheus_client take for a registry."""

    def __init__(self, found: Snapshot, registry: _Registry | None) -> None:
        self._found = found
        self._registry = registry

    def collect(self) -> Iterator[Metric]:
        yield from families(self._found)
        if self._registry is not None:
            yield from self._registry.collect()
