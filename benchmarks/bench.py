"""Measures ginsfsm beside its peers and says which of the project's figures are reached.

``python benchmarks/bench.py [--only echo_50x1k,churn] [--peers uvloop,ginsfsm] [--runs 5]
[--key rsa] [--json FILE]``

`README.md` beside this file says what is measured and how to read it.
"""

import argparse
import json
import os
import resource
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

import dispatch
import peers
from certificate import KEYS
from process import BenchError
from report import Results, as_json, disturbed, head, table, targets_table, verdicts
from scenarios import PEERS, SCENARIOS, Cores, Scenario

DESCRIPTORS = 9200
"""Open files that a server needs for the 9 000 idle connections, with some to spare."""


def arguments() -> argparse.Namespace:
    """Read the command line."""
    names = [scenario.name for scenario in SCENARIOS]
    parser = argparse.ArgumentParser(description="ginsfsm beside its peers, by CPU time")
    parser.add_argument("--only", help=f"scenarios, with commas: {', '.join(names)}")
    parser.add_argument("--peers", help=f"peers, with commas: {', '.join(PEERS)}")
    parser.add_argument("--runs", type=int, default=5, help="rounds (default 5)")
    parser.add_argument(
        "--key", choices=KEYS, default="ec", help="key of the certificate for TLS (default ec)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure there")
    options = parser.parse_args()
    options.only = names if options.only is None else options.only.split(",")
    options.peers = None if options.peers is None else options.peers.split(",")
    for what, known in ((options.only, names), (options.peers or (), PEERS)):
        unknown = [name for name in what if name not in known]
        if unknown:
            parser.error(f"unknown: {', '.join(unknown)}; known: {', '.join(known)}")
    if options.runs < 1:
        parser.error("--runs must be 1 or more")
    return options


def choose_cores() -> Cores:
    """Take the last core for the server: the first serves most interrupts."""
    usable = sorted(os.sched_getaffinity(0))
    return Cores(server=usable[-1], loader=usable[0])


def allow_descriptors() -> None:
    """Raise the limit of open files as far as allowed; the children inherit it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if hard != resource.RLIM_INFINITY and hard < DESCRIPTORS:
        print(f"`ulimit -n` is {hard}: idle_9000 needs {DESCRIPTORS}", file=sys.stderr)


def run(
    scenario: Scenario, chosen: Sequence[str] | None, runs: int, key: str, cores: Cores
) -> Results:
    """Measure the rows of a scenario, round by round.

    A row that fails is left out of later rounds and reported; the others go on.
    """
    results = Results(scenario)
    rows = scenario.rows(scenario.peers if chosen is None else chosen)
    if rows and scenario.tls:
        try:
            peers.build_tls(key)
        except BenchError as error:
            results.failures = dict.fromkeys(rows, str(error))
            return results
    for number in range(runs):
        progress(f"{scenario.name}, round {number + 1} of {runs}")
        results.add(scenario.measure(rows, cores))
        rows = [row for row in rows if row not in results.failures]
        if not rows:
            break
    progress("")
    return results


def progress(words: str) -> None:
    """Say on a terminal, in one line that is written over, what is under way."""
    if sys.stderr.isatty():
        print(f"\r{words:70}\r{words}", end="", file=sys.stderr, flush=True)


def end(number: int, frame: FrameType | None) -> None:
    """Turn SIGTERM and SIGHUP into an exit that ends the children on its way out."""
    sys.exit(128 + number)


def main() -> int:
    """Measure what the command line asks for; 1 if anything could not be measured."""
    options = arguments()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, end)
    allow_descriptors()
    peers.build()
    if "dispatch" in options.only and (options.peers is None or "original" in options.peers):
        dispatch.original_python()
    cores = choose_cores()
    heading = head(cores, options.runs, options.key)
    print(heading, flush=True)
    all_results = []
    for scenario in SCENARIOS:
        if scenario.name in options.only:
            results = run(scenario, options.peers, options.runs, options.key, cores)
            if results.rows() or results.failures:
                all_results.append(results)
                print(f"\n{table(results)}", flush=True)
    found = verdicts(all_results)
    print(f"\n{targets_table(found)}")
    if disturbed(all_results):
        print("\nOther processes were at work during the run: do not trust these figures far.")
    if options.json:
        options.json.write_text(json.dumps(as_json(heading, all_results, found), indent=1) + "\n")
    return 1 if any(results.failures for results in all_results) else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BenchError as error:
        sys.exit(f"bench: {error}")
    except KeyboardInterrupt:
        print("\nbench: interrupted; every server and loader was ended", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)
