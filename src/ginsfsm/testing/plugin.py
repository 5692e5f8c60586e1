"""The pytest plugin: `pytest --fsm-cov=package` says which rows of its tables never fired.

It is loaded in every test run where ginsfsm is installed, and ginsfsm with it; what records and
reports is imported only when it is asked for. With pytest-xdist each process records for itself,
and the one that reports adds them up.

The frames of the library are left out of the traceback of a test that failed, as those of pytest
are: between two actions of a user there may be seven. `--full-trace` shows them, and so does
`-p no:ginsfsm-frames`, which shows nothing of pytest.
"""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from ginsfsm.testing.coverage import Coverage

__all__: list[str] = []

DRAWINGS = ("svg", "mermaid")

FORMATS = "text, json:FILE, svg:FOLDER or mermaid:FOLDER"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add our options to those of the command line."""
    group = parser.getgroup("ginsfsm", "transition coverage of state machines (ginsfsm)")
    group.addoption(
        "--fsm-cov",
        metavar="TARGET",
        action="append",
        default=[],
        type=_target,
        help="record which rows of its tables fire: a package, a module, module:Class, file.py "
        "or file.py:Class; may be given many times",
    )
    group.addoption(
        "--fsm-cov-report",
        metavar="FORMAT",
        action="append",
        default=[],
        type=_report,
        help=f"what to do with it: {FORMATS}; may be given many times (default: text)",
    )
    group.addoption(
        "--fsm-cov-fail-under",
        metavar="PERCENT",
        type=_percent,
        help="fail if fewer of the rows fired, or if some could not be counted",
    )


def _target(text: str) -> str:
    from ginsfsm.testing.coverage_target import Target

    try:
        target = Target(text)
    except ValueError as error:
        raise pytest.UsageError(f"--fsm-cov={text}: {error}") from None
    if target.file is not None and not os.path.isfile(target.file):
        raise pytest.UsageError(f"--fsm-cov={text}: there is no file {target.file}")
    # A process of pytest-xdist may have another working folder.
    return target.whole


def _percent(text: str) -> float:
    try:
        percent = float(text)
    except ValueError:
        percent = -1.0
    if 0 <= percent <= 100:
        return percent
    raise pytest.UsageError(f"--fsm-cov-fail-under={text}: expected a number from 0 to 100")


def _report(text: str) -> tuple[str, str]:
    kind, _, place = text.partition(":")
    if (kind == "text" and not place) or (kind in ("json", *DRAWINGS) and place):
        return kind, place
    raise pytest.UsageError(f"--fsm-cov-report={text}: expected {FORMATS}")


def pytest_configure(config: pytest.Config) -> None:
    """Begin to record, before any test is imported."""
    config.pluginmanager.register(Frames(), "ginsfsm-frames")
    targets: list[str] = config.option.fsm_cov
    if targets:
        config.pluginmanager.register(FsmCov(config, targets), "fsm-cov")
    elif config.option.fsm_cov_report or config.option.fsm_cov_fail_under is not None:
        raise pytest.UsageError("--fsm-cov-report and --fsm-cov-fail-under need --fsm-cov=TARGET")


class Frames:
    """Leaves the frames of the library out of tracebacks."""

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_makereport(self, call: pytest.CallInfo[None]) -> None:
        if call.excinfo is None:
            return
        # pytest looks for this name in the globals of a frame too. So it costs no event anything.
        for name, module in list(sys.modules.items()):
            if name.partition(".")[0] == "ginsfsm":
                vars(module)["__tracebackhide__"] = _tells_enough


def _tells_enough(excinfo: pytest.ExceptionInfo[BaseException] | None) -> bool:
    """Whether an exception can be understood without the library's frames around it.

    Not one that the library did not mean to raise: then where it arose is all there is.
    """
    from ginsfsm.errors import GinsfsmError

    if excinfo is None or isinstance(excinfo.value, (GinsfsmError, AssertionError)):
        return True
    where: str = excinfo.traceback[-1].frame.f_globals.get("__name__", "")
    return where.partition(".")[0] != "ginsfsm"


class FsmCov:
    """The coverage of one process of a test run."""

    def __init__(self, config: pytest.Config, targets: list[str]) -> None:
        from ginsfsm.testing.coverage import Coverage

        self.config = config
        self.least: float | None = config.option.fsm_cov_fail_under
        self.waiting = 0
        """How many processes of pytest-xdist have not told yet what they saw."""
        self.told: list[str] = []
        """The lines of the report."""
        self.failures: list[str] = []
        """Why the run has failed."""
        self.coverage: Coverage = Coverage(targets)
        self.coverage.begin()
        self.children = contextlib.ExitStack()
        self.children.enter_context(self.coverage.of_children())

    @property
    def output(self) -> dict[str, Any] | None:
        """Where a process of pytest-xdist leaves what it saw; None in the one that reports."""
        output: dict[str, Any] | None = getattr(self.config, "workeroutput", None)
        return output

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodeready(self) -> None:
        self.waiting += 1

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        # One that crashed has left nothing.
        rows = getattr(node, "workeroutput", {}).get("fsm_cov")
        if rows is not None:
            self.waiting -= 1
            self.coverage.merge(rows)

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        self.children.close()
        if self.output is not None:
            self.output["fsm_cov"] = self.coverage.plain()
        elif not self.config.option.collectonly:
            self.coverage.load()
            self.report()
            if self.failures and session.exitstatus == pytest.ExitCode.OK:
                session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def report(self) -> None:
        """Write what was asked for, and judge it."""
        from ginsfsm.draw.graphviz import GraphvizError
        from ginsfsm.testing.coverage_report import Report

        report = Report(self.coverage.rows)
        for kind, place in self.config.option.fsm_cov_report or [("text", "")]:
            path = self.config.invocation_params.dir / place
            try:
                if kind == "text":
                    self.told += report.text()
                    continue
                if kind == "json":
                    report.write_json(path)
                else:
                    self.told += report.write_drawings(path, "svg" if kind == "svg" else "mermaid")
                self.told.append(f"{kind} written to {place}")
            except (OSError, GraphvizError) as error:
                self.failures.append(f"--fsm-cov-report={kind}:{place}: {error}")
        if self.waiting:
            processes = "1 process" if self.waiting == 1 else f"{self.waiting} processes"
            self.told.append(f"{processes} ended without telling what they saw")
        # Rows that are not counted cannot bring the figure down.
        uncounted = self.coverage.problems + [
            f"--fsm-cov={target}: no gclass that has a row is called so"
            for target in self.coverage.targets_without_rows()
        ]
        if self.least is None:
            self.told += uncounted
            return
        self.failures += uncounted
        # Where there are no rows at all, each target is told of above.
        if report.percent is not None and report.percent < self.least:
            self.failures.append(
                f"{report.percent:g} % of the rows fired, less than --fsm-cov-fail-under="
                f"{self.least:g}"
            )

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self.told or self.failures:
            terminalreporter.section("transition coverage")
        for line in self.told:
            terminalreporter.line(line)
        for line in self.failures:
            terminalreporter.line(f"FAILED {line}", red=True)

    def pytest_unconfigure(self) -> None:
        # Where the run ended before it began, nothing else has.
        self.children.close()
        self.coverage.end()
