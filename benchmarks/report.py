"""From the figures of all rounds to the words on the screen."""

import os
import platform
import ssl
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

from certificate import KEYS
from process import SCHEDSTAT
from scenarios import SLICES, TARGETS, Cores, Figure, Round, Scenario, Target

QUIET = 0.05
"""Share of the machine that others may take before the report warns."""

PACKAGES = ("ginsfsm", "msgspec", "uvloop", "tornado", "twisted", "transitions")


@dataclass
class Results:
    """The figures of one scenario: per round, the rows that were measured in it."""

    scenario: Scenario
    rounds: list[dict[str, Figure]] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)

    def add(self, found: Round) -> None:
        """Take in a round."""
        self.rounds.append(found.figures)
        self.failures |= found.failures

    def rows(self) -> list[str]:
        """Return the rows that have a figure, in the order in which they were measured."""
        return list(dict.fromkeys(row for figures in self.rounds for row in figures))

    def values(self, row: str) -> list[float]:
        """Return the figures of a row."""
        return [figures[row].value for figures in self.rounds if row in figures]

    def ratios(self, row: str, against: Sequence[str]) -> list[float]:
        """Return, for every round that has all these rows, one figure divided by the others'.

        Of several others the best one of that round counts, so the largest ratio. What disturbs
        the machine disturbs neighbours alike, so a ratio of neighbours is steadier than the
        ratio of two medians.
        """
        return [
            max(figures[row].ratio(figures[other]) for other in against)
            for figures in self.rounds
            if figures.keys() >= {row, *against}
        ]

    def notes(self, row: str) -> dict[str, float]:
        """Return the medians of a row's notes."""
        notes = [figures[row].notes for figures in self.rounds if row in figures]
        return {name: statistics.median(note[name] for note in notes) for name in notes[0]}


def version(package: str) -> str:
    """Return the version of a package of this environment."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "absent"


def processor() -> str:
    """Return the model of the processor as the kernel names it."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def siblings(cores: Cores) -> bool:
    """Whether the two cores are threads of one and so share its units."""
    path = Path(f"/sys/devices/system/cpu/cpu{cores.server}/topology/thread_siblings")
    try:
        mask = int(path.read_text().replace(",", ""), 16)
    except OSError:
        return False
    return cores.server != cores.loader and bool(mask >> cores.loader & 1)


def head(cores: Cores, runs: int, key: str) -> str:
    """Return what a reader must know before the figures mean anything."""
    python = f"{platform.python_implementation()} {platform.python_version()}"
    system = f"{platform.system()} {platform.release().partition('-')[0]}"
    packages = ", ".join(f"{package} {version(package)}" for package in PACKAGES)
    source = "schedstat, ns" if SCHEDSTAT else "stat, clock ticks"
    loop = "asyncio" if version("uvloop") == "absent" else "uvloop"
    where = f"server on CPU {cores.server}, loader on CPU {cores.loader}"
    if cores.server == cores.loader:
        where = f"ONE CORE ONLY ({cores.server}): server and loader share it, figures are worse"
    elif siblings(cores):
        where += " (threads of one core: they disturb each other)"
    load = ", ".join(f"{value:.2f}" for value in os.getloadavg())
    return "\n".join(
        (
            f"{python}, {system}, {os.cpu_count()} × {processor()}",
            f"{packages}; ginsfsm runs on {loop}",
            f"TLS of the servers: {ssl.OPENSSL_VERSION}, certificate with {KEYS[key]}",
            f"{where}; CPU time from {source}",
            f"rounds: {runs}, of {SLICES} slices, peers in turn; load at the start: {load}",
        )
    )


def spread(values: Sequence[float], digits: int) -> str:
    """Return the smallest and the largest value."""
    return f"{min(values):.{digits}f}..{max(values):.{digits}f}"


def table(results: Results) -> str:
    """Return the table of one scenario."""
    scenario = results.scenario
    digits = 0 if scenario.unit == "ns" else 2
    against = "/ better" if len(scenario.baseline) > 1 else f"/ {scenario.baseline[0]}"
    lines = [
        f"{scenario.name}: {scenario.title}",
        f"  {'':15}{scenario.unit:>8}  {'min..max':16}{against:>9}  {'min..max':12}",
    ]
    for row in results.rows():
        values = results.values(row)
        line = f"  {row:15}{statistics.median(values):8.{digits}f}  {spread(values, digits):16}"
        ratios = results.ratios(row, scenario.baseline)
        if ratios:
            line += f"{statistics.median(ratios):9.2f}  {spread(ratios, 2):12}"
        else:
            line += f"{'-':>9}  {'':12}"
        lines.append(line + remarks(results.notes(row)))
    # One cause may have kept several rows from being measured: it is told once.
    for what in dict.fromkeys(results.failures.values()):
        rows = ", ".join(row for row, words in results.failures.items() if words == what)
        lines.append(f"  {rows}: NOT MEASURED: {what}")
    return "\n".join(line.rstrip() for line in lines)


def remarks(notes: dict[str, float]) -> str:
    """Return the end of a row: how busy the server was, or how large."""
    if "busy" in notes:
        rate = notes["operations"] / notes["seconds"]
        return (
            f"  busy {notes['busy']:4.0%}, others {max(0.0, notes['others']):3.0%}, {rate:7.0f}/s"
        )
    if "empty_mib" in notes:
        return f"  {notes['empty_mib']:.1f} MiB empty, {notes['full_mib']:.1f} full"
    return ""


def disturbed(all_results: Iterable[Results]) -> bool:
    """Whether other processes took so much of the machine that the figures are in doubt."""
    shares = [
        figure.notes["others"]
        for results in all_results
        for figures in results.rounds
        for figure in figures.values()
        if "others" in figure.notes
    ]
    return bool(shares) and statistics.mean(shares) > QUIET


@dataclass(frozen=True)
class Verdict:
    """A target and how far it was met."""

    target: Target
    figure: float | None
    word: str


def verdicts(all_results: Iterable[Results]) -> list[Verdict]:
    """Return a verdict on every target whose scenario was run."""
    found = []
    by_name = {results.scenario.name: results for results in all_results}
    for target in TARGETS:
        results = by_name.get(target.scenario)
        if results is None:
            continue
        if target.against:
            values = results.ratios(target.row, target.against)
        else:
            values = results.values(target.row)
        if not values:
            found.append(Verdict(target, None, "not measured"))
            continue
        figure = statistics.median(values)
        found.append(Verdict(target, figure, "reached" if figure <= target.limit else "missed"))
    return found


def targets_table(found: Sequence[Verdict]) -> str:
    """Return the table of targets."""
    lines = [f"{'figures to reach':42}{'at most':>8}{'figure':>9}"]
    for verdict in found:
        figure = "-" if verdict.figure is None else f"{verdict.figure:.3f}"
        target = verdict.target
        lines.append(f"  {target.words:40}{target.limit:8.3f}{figure:>9}  {verdict.word}")
    return "\n".join(lines)


def as_json(
    heading: str, all_results: Iterable[Results], found: Sequence[Verdict]
) -> dict[str, object]:
    """Return everything that was measured, for another program."""
    return {
        "head": heading.splitlines(),
        "scenarios": {
            results.scenario.name: {
                "title": results.scenario.title,
                "unit": results.scenario.unit,
                "rounds": [
                    {
                        row: {"value": figure.value, "slices": figure.slices, **figure.notes}
                        for row, figure in round_.items()
                    }
                    for round_ in results.rounds
                ],
                "failures": results.failures,
            }
            for results in all_results
        },
        "targets": [
            {
                "words": verdict.target.words,
                "at_most": verdict.target.limit,
                "figure": verdict.figure,
                "verdict": verdict.word,
            }
            for verdict in found
        ],
    }
