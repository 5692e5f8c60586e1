"""Metrics for Prometheus: what `ginsfsm.snapshot` counts, over HTTP, on our own server.

A wing of its own, with `pip install 'ginsfsm[metrics]'`: `families` gives the numbers their names,
`scrape` is one connection of a scraper, and `exporter` puts the two together::

    from ginsfsm.metrics import Exporter

    self.create_gobj("metrics", Exporter, self, port=9100)

`ginsfsm run --metrics 127.0.0.1:9100` does the same for any program.
"""

from ginsfsm.metrics.exporter import Exporter
from ginsfsm.metrics.families import families

__all__ = ["Exporter", "families"]
