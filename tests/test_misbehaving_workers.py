"""Workers that misbehave, as the parent sees them.

The test is the parent; a worker is a few lines of Python that speak over the channel themselves.
"""

import errno
import json
import os
import re
import socket
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from conftest import RunAsync
from ginsfsm import Event, GAplic, GObj, on
from ginsfsm.c_workers import Workers
from ginsfsm.net.listen_error import ListenError
from ginsfsm.net.listening import Listening
from ginsfsm.net.place import Place, open_place
from ginsfsm.workers.channel import Channel
from ginsfsm.workers.events import EV_CHANNEL_ENDED, EV_LISTENING, EV_TERMINATE
from ginsfsm.workers.origin import Origin

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="workers pass sockets on")

HEAD = """
import os, pathlib, socket, time
channel = socket.socket(fileno=int(os.environ["GINSFSM_WORKER"].partition(":")[0]))
def say(name):
    channel.sendall(b'{"type":"%s"}\\n' % name)
"""

RunParent = Callable[..., Workers]


@pytest.fixture
def run_parent(run_async: RunAsync, caplog: pytest.LogCaptureFixture, tmp_path: Path) -> RunParent:
    """Run a parent with one worker until it gives up, or has said this."""

    def run(script: str, until: str = "giving up", **config: float) -> Workers:
        made: list[Workers] = []

        async def parent() -> None:
            app = GAplic("parent")
            command = (sys.executable, "-c", HEAD + textwrap.dedent(script), str(tmp_path))
            config.setdefault("backoff", 0.001)
            made.append(app.create_gobj("workers", Workers, app, command=command, **config))

            def look() -> None:
                if until in caplog.text:
                    app.stop()
                else:
                    app.call_later(app, 0.01, look)

            look()
            await app.serve()

        caplog.set_level("DEBUG", "ginsfsm")
        monkey = pytest.MonkeyPatch()
        with monkey.context() as inside:
            inside.chdir(tmp_path)
            run_async(parent)
        return made[0]

    return run


def test_only_deaths_at_the_start_count_for_giving_up(
    run_parent: RunParent, caplog: pytest.LogCaptureFixture
) -> None:
    """One that has served three times, each time for a moment, has four tries as any other."""
    workers = run_parent(
        """
        before = len(os.listdir())
        pathlib.Path(str(before)).touch()
        if before < 3:
            say(b"EV_READY")
        raise SystemExit(7)
        """
    )
    assert workers.exit_status == 1
    assert len([one for one in caplog.messages if " died: exit status 7" in one]) == 3
    assert len([one for one in caplog.messages if " died at its start: exit status 7" in one]) == 3
    assert "worker 1 died at its start 4 times in succession" in caplog.messages[-1]


def test_a_message_of_another_version(
    run_parent: RunParent, caplog: pytest.LogCaptureFixture
) -> None:
    """After an upgrade on the disk, workers are newer than their parent."""
    run_parent(
        """
        say(b"EV_OF_NEXT_YEAR")
        channel.sendall(b"no JSON\\n")
        say(b"EV_READY")
        raise SystemExit(7)
        """,
        until="died: exit status 7",
    )
    left_out = [one for one in caplog.messages if "another version of ginsfsm is left out" in one]
    assert len(left_out) >= 2
    assert left_out[0].endswith('{"type":"EV_OF_NEXT_YEAR"}')
    assert "1 worker serves" in caplog.messages


def test_numbers_of_another_version(
    run_parent: RunParent, caplog: pytest.LogCaptureFixture
) -> None:
    """A counter more is no reason to know nothing of the others."""
    workers = run_parent(
        """
        say(b"EV_READY")
        numbers = b'{"gaplic":{"gobjs":3,"refused_events":5,"of_next_year":1}}'
        channel.sendall(b'{"type":"EV_STATS","snapshot":%s}\\n' % numbers)
        raise SystemExit(7)
        """,
        until="died: exit status 7",
    )
    assert workers.totals.sum().gaplic.refused_events == 5
    assert "left out" not in caplog.text


def test_a_message_without_end(
    run_parent: RunParent, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ginsfsm.workers.channel.LONGEST", 100_000)
    run_parent(
        """
        say(b"EV_READY")
        try:
            while True:
                channel.sendall(b"x" * 10_000)
        except OSError:
            time.sleep(1000)
        """,
        until="died: ",
    )
    said = [one for one in caplog.messages if "of more than 100000 bytes" in one]
    assert said == ["a message of more than 100000 bytes arrives; the channel ends here"]
    assert "Traceback" not in caplog.text
    assert " died: killed by SIGKILL: has closed its channel" in caplog.text


def test_what_has_been_closed_is_not_opened_again(
    run_parent: RunParent, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that was told to leave asks for a socket while the parent drains."""
    opened: list[Place] = []

    def opens(place: Place) -> Listening:
        opened.append(place)
        return open_place(place)

    def ready(workers: Workers, _event: object) -> None:
        monkeypatch.undo()
        monkeypatch.setattr("ginsfsm.workers.places.open_place", opens)
        workers.post_event(workers, EV_TERMINATE(20))

    monkeypatch.setattr(Workers, "_tell_running", lambda workers: ready(workers, None))
    run_parent(
        """
        say(b"EV_READY")
        channel.recv(1000)
        place = b'{"hosts":["127.0.0.1"],"ports":[0]}'
        channel.sendall(b'{"type":"EV_WANT_TO_LISTEN","path":"a/b","place":%s}\\n' % place)
        print("answer", channel.recv(1000), flush=True)
        """,
        until="worker 1 has left",
    )
    assert not opened


def test_one_that_closes_its_channel_and_lives_on(
    run_parent: RunParent, caplog: pytest.LogCaptureFixture
) -> None:
    run_parent(
        """
        say(b"EV_READY")
        channel.close()
        time.sleep(1000)
        """,
        until="died: ",
    )
    assert "has closed its channel to the parent and lives on; killing it" in caplog.text
    assert " died: killed by SIGKILL: has closed its channel" in caplog.text


def test_the_time_to_drain_ends_with_the_process(
    run_parent: RunParent, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that has drained on its own account is followed by one that starts slowly."""
    monkeypatch.setattr("ginsfsm.c_worker.TOO_LONG", 1.0)
    run_parent(
        """
        if not os.listdir():
            pathlib.Path("1").touch()
            say(b"EV_READY")
            say(b"EV_LEAVING")
        else:
            time.sleep(1000)
        """,
        until="was not ready after 1.5 s",
        drain_timeout=0,
        start_timeout=1.5,
    )
    assert "does not accept" not in caplog.text


def test_one_that_fails_while_it_drains(
    run_parent: RunParent, caplog: pytest.LogCaptureFixture
) -> None:
    run_parent(
        """
        say(b"EV_READY")
        if os.listdir():
            time.sleep(1000)
        pathlib.Path("1").touch()
        say(b"EV_LEAVING")
        raise SystemExit(3)
        """,
        until="died while it drained",
    )
    (told,) = [one for one in caplog.records if "died while it drained" in one.message]
    assert told.levelname == "ERROR"
    assert re.fullmatch(
        r"worker 1: process \d+ died while it drained: exit status 3; its connections broke",
        told.message,
    )
    assert (vars(told)["worker"], vars(told)["status"]) == (1, 3)
    assert "has left" not in caplog.text


@pytest.mark.parametrize("drains", [False, True])
def test_one_that_fails_after_its_start(
    drains: bool, run_parent: RunParent, caplog: pytest.LogCaptureFixture
) -> None:
    """What it says of that is told, whatever it was doing."""
    run_parent(
        f"""
        say(b"EV_READY")
        if {drains}:
            say(b"EV_LEAVING")
        reason = b'"reason":"it failed\\\\nTraceback"'
        channel.sendall(b'{{"type":"EV_CANNOT_START",%s,"status":1}}\\n' % reason)
        raise SystemExit(1)
        """,
        until="exit status 1",
    )
    if drains:
        assert "fails while it drains: it failed\nTraceback" in caplog.text
        assert "died while it drained: exit status 1; its connections broke" in caplog.text
    else:
        assert "worker 1 died: exit status 1: it failed; the next one starts in" in caplog.text
        assert caplog.text.count("Traceback") == 1
    assert "does not accept" not in caplog.text


def test_one_that_does_not_end_is_killed_and_told_of_once(
    run_parent: RunParent, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ginsfsm.c_worker.TOO_LONG", 0.05)
    run_parent(
        """
        say(b"EV_READY")
        if not os.listdir():
            pathlib.Path("1").touch()
            say(b"EV_LEAVING")
        time.sleep(1000)
        """,
        until="worker 1 has left",
        drain_timeout=0,
    )
    (told,) = [one.message for one in caplog.records if one.levelname == "ERROR"]
    assert re.fullmatch(r"worker 1: process \d+ does not end; killing it", told)


def test_no_descriptor_for_the_channel(
    run_parent: RunParent, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, failures = socket.socketpair, 2

    def socketpair() -> tuple[socket.socket, socket.socket]:
        nonlocal failures
        failures -= 1
        if failures >= 0:
            raise OSError(errno.EMFILE, "Too many open files")
        return real()

    # Not of the module `socket` itself: the loop makes a pair, too.
    monkeypatch.setattr("ginsfsm.c_worker.socket", SimpleNamespace(socketpair=socketpair))
    run_parent("say(b'EV_READY'); time.sleep(1000)", until="1 worker serves")
    assert caplog.text.count("cannot be started: [Errno 24] Too many open files") == 2


def test_a_sandbox_without_descriptors_of_processes(
    run_parent: RunParent, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The parent looks every so often then."""

    def pidfd_open(_pid: int) -> int:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "pidfd_open", pidfd_open)
    run_parent("raise SystemExit(7)")
    assert caplog.messages[-1].endswith("the last time: exit status 7")


class TestOrigin:
    """The other end."""

    def test_no_descriptor_for_the_sockets(self) -> None:
        """The kernel drops those for which there is no number left."""
        ours, its = socket.socketpair()
        with ours:
            origin = Origin(its)
            Channel(ours).send(EV_LISTENING(sockets=2, port=7000))
            with pytest.raises(ListenError, match=r"2 sockets were sent and 0 received.*ulimit -n"):
                origin.listen("app/server", Place(hosts=("127.0.0.1",), ports=(0,)))
            origin.channel.close()

    def test_a_late_answer_is_none(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        """It would be taken for that to the next question."""
        monkeypatch.setattr("ginsfsm.workers.origin.ANSWER", 0.01)
        ours, its = socket.socketpair()
        with ours, socket.create_server(("127.0.0.1", 0)) as late:
            origin = Origin(its)
            with pytest.raises(ListenError, match="did not answer within"):
                origin.listen("app/a", Place(hosts=("127.0.0.1",), ports=(0,)))
            try:
                Channel(ours).send(EV_LISTENING(sockets=1, port=7000), (late.fileno(),))
                with pytest.raises(ListenError, match="the parent has gone"):
                    origin.listen("app/b", Place(unix_path=str(tmp_path / "b")))
            finally:
                origin.channel.close()

    def test_a_parent_that_answers_no_more_has_gone(
        self, run_async: RunAsync, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """For the worker that serves already, too: another takes its place."""
        monkeypatch.setattr("ginsfsm.workers.origin.ANSWER", 0.01)
        told: list[Event] = []

        class Owner(GObj):
            def ac_ended(self, event: EV_CHANNEL_ENDED) -> None:
                told.append(event)
                self.gaplic.stop()

            machine = {"ST_IDLE": [on(EV_CHANNEL_ENDED, ac_ended)]}

        async def worker() -> None:
            app = GAplic("app")
            ours, its = socket.socketpair()
            with ours:
                origin = Origin(its)
                owner = app.create_gobj("owner", Owner, app)

                def ask() -> None:
                    origin.channel.watch(owner)
                    with pytest.raises(ListenError, match="did not answer within"):
                        origin.listen("app/a", Place(hosts=("127.0.0.1",), ports=(0,)))

                app.call_later(app, 0, ask)
                await app.serve()

        run_async(worker)
        assert len(told) == 1

    @pytest.mark.parametrize(
        "place", [Place(hosts=("127.0.0.1",), ports=(7000,)), Place(unix_path="/nowhere/socket")]
    )
    def test_two_servers_at_one_place(self, place: Place) -> None:
        """As without workers: the second one is refused, until the first has gone."""
        port = 0 if place.unix_path else 7000
        ours, its = socket.socketpair()
        with ours, socket.create_server(("127.0.0.1", 0)) as served:
            origin, parent = Origin(its), Channel(ours)

            def listen(path: str) -> Listening:
                parent.send(EV_LISTENING(sockets=1, port=port), (served.fileno(),))
                return origin.listen(path, place)

            first = listen("app/a")
            with pytest.raises(ListenError, match="another server of this program") as caught:
                origin.listen("app/b", place)
            assert caught.value.errno == errno.EADDRINUSE
            first.close()
            listen("app/b").close()
            origin.channel.close()

    def test_two_servers_with_several_ports(self) -> None:
        """Each takes the first that is free, as without workers."""
        ours, its = socket.socketpair()
        with ours, socket.create_server(("127.0.0.1", 0)) as served:
            origin, parent = Origin(its), Channel(ours)
            place = Place(hosts=("127.0.0.1",), ports=(7000, 7001))
            parent.send(EV_LISTENING(sockets=1, port=7000), (served.fileno(),))
            first = origin.listen("app/a", place)
            parent.send(EV_LISTENING(sockets=1, port=7001), (served.fileno(),))
            second = origin.listen("app/b", place)
            with pytest.raises(ListenError, match="another server of this program"):
                origin.listen("app/c", place)
            asked = ours.recv(1 << 16).splitlines()
            assert [json.loads(one)["place"]["ports"] for one in asked] == [[7000, 7001], [7001]]
            for one in (first, second):
                one.close()
            origin.channel.close()

    def test_an_old_parent_that_has_gone_is_not_missed(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        ours, its = socket.socketpair()
        with ours:
            origin = Origin(its)
            origin.channel.close()
            place = Place(hosts=("127.0.0.1",), ports=(0,))
            assert origin.inherit(("app/server", place)) is None
        assert not caplog.messages

    @pytest.mark.parametrize("wrong", ["x", "3:x", "99999:1", ""])
    def test_a_variable_that_no_parent_has_set(self, wrong: str) -> None:
        environment = {"GINSFSM_WORKER": wrong, "HOME": "/"}
        if wrong:
            with pytest.raises(SystemExit, match="only a parent sets this variable"):
                Origin.of_environment(environment=environment)
        else:
            assert Origin.of_environment(environment=environment) is None
        assert environment == {"HOME": "/"}
