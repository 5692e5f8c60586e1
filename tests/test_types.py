"""The public types: mypy and pyright catch a mistake where it stands, and let right code pass."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

RIGHT = '''
from abc import ABC, abstractmethod
from typing import Any, Generic, Protocol, TypeVar

from ginsfsm import (
    NOT_ACCEPTED, POSTPONE, Event, GAplic, GObj, after, enter, leave, on, param,
)
from ginsfsm.c_sock import EV_CONNECTED, EV_DISCONNECTED, EV_RX_DATA, EV_SEND_DATA
from ginsfsm.c_srv_sock import GServerSock


class Echo(GObj):
    """Sends every byte back to the client it came from."""

    class config(GObj.config):
        host: str = param("127.0.0.1", "address to listen on")
        port: int = param(7000, "port to listen on; 0 takes a free one")

    clients = 0

    def start_up(self) -> None:
        self.server = self.create_gobj(
            "server", GServerSock, self, host=self.config.host, port=self.config.port)

    def ac_connected(self, event: EV_CONNECTED) -> None:
        self.clients += 1

    def ac_echo(self, event: EV_RX_DATA) -> None:
        self.send_event(event.source, EV_SEND_DATA(event.data))

    def ac_disconnected(self, event: EV_DISCONNECTED) -> None:
        self.clients -= 1
        self.destroy_gobj(event.source)

    machine = {
        "ST_IDLE": [
            on(EV_CONNECTED,    ac_connected),
            on(EV_RX_DATA,      ac_echo),
            on(EV_DISCONNECTED, ac_disconnected),
        ],
    }


if __name__ == "__main__":
    app = GAplic("echo")
    app.create_gobj("echo", Echo, app)
    app.start()


class EV_COIN(Event):
    value: int
    currency: str = "EUR"


class EV_PUSH(Event):
    pass


class EV_DONE(Event):
    result: Any
    error: BaseException | None


class Gate(GObj):
    """Every kind of row and of parameter."""

    class config(GObj.config):
        patience: float = param(10, "seconds", ge=0)
        mode: str = param("fast", "how", choices=("fast", "safe"))
        limit: int | None = param(None, "most coins", ge=1)
        ports: tuple[int, ...] = param((), "ports")
        options: dict[str, object] = param({}, "options")
        subscriber: GObj | None = param(None, "who listens")

    outputs = (EV_PUSH,)
    coins = 0

    def start_up(self) -> None:
        limit: int | None = self.config.limit
        ports: tuple[int, ...] = self.config.ports
        self.other = self.create_gobj(None, Echo, self, unique=True)
        self.other.clients += len(ports) + (limit or 0)
        self.other.subscribe_event(None, self)
        self.subscribe_event(EV_PUSH, self.other, post=True)
        self.spawn(self.work(), done=EV_DONE)
        for name, child in self.children.items():
            print(name, child.path, child.state, child.parent.gaplic.time())

    async def work(self) -> int:
        return 7

    def valid(self, event: EV_COIN) -> bool:
        return event.value > 0 and event.currency == "EUR"

    def ac_coin(self, event: EV_COIN) -> int:
        self.coins += event.value
        self.set_new_state("ST_OPEN")
        return self.coins

    def ac_any(self, event: Event) -> None:
        self.send_event("unique", event)

    def ac_either(self, event: EV_COIN | EV_PUSH) -> None:
        self.broadcast_event(EV_PUSH())

    def ac_done(self, event: EV_DONE) -> None:
        self.write_parameters(limit=7)

    def opened(self) -> None:
        if self.send_event(self, "EV_COIN", value=5) is NOT_ACCEPTED:
            self.post_event(self.parent, EV_PUSH())

    machine = {
        "ST_LOCKED": [
            on(EV_COIN, ac_coin, when=valid, may=("ST_OPEN",)),
            on(EV_COIN, None),
            on(EV_PUSH, POSTPONE),
            on(EV_DONE, ac_done),
        ],
        "ST_OPEN": [
            enter(opened),
            leave(opened),
            on(EV_COIN, ac_either, when=lambda self, event: event.value > 3),
            on(EV_COIN, lambda self, event: event.value),
            on(EV_PUSH, ac_any, "ST_LOCKED"),
            after("patience", None, "ST_LOCKED"),
            after(5, opened),
        ],
    }


picture: str = f"{Gate:mermaid}" + format(Gate, "md")
kind: type[GObj] = Gate

T = TypeVar("T")


class Named(Protocol):
    def title(self) -> str: ...


class Counted(ABC):
    @abstractmethod
    def count(self) -> int: ...


class Holder(GObj, Named, Counted, Generic[T]):
    """A gclass with other bases."""

    held: list[T]

    def start_up(self) -> None:
        self.held = []
        named: Named = self
        print(named.title(), self.count())

    def title(self) -> str:
        return self.name

    def count(self) -> int:
        return len(self.held)

    def ac_push(self, event: EV_PUSH) -> None:
        self.held.clear()

    machine = {"ST_IDLE": [on(EV_PUSH, ac_push)]}


class Numbers(Holder[int]):
    def total(self) -> int:
        return sum(self.held)


class Owner(GObj):
    def start_up(self) -> None:
        total: int = self.create_gobj("numbers", Numbers, self).total()
        holder: Holder[Any] = self.create_gobj(None, Holder, self)
        print(total, holder.title())
'''

WRONG = """
from ginsfsm import POSTPONE, Event, GAplic, GObj, after, enter, leave, on, param
from ginsfsm.c_sock import EV_SEND_DATA


class EV_COIN(Event):
    value: int
    currency: str = "EUR"


class EV_PUSH(Event):
    pass


EV_COIN("five")  # expect-error
EV_COIN()  # expect-error
EV_COIN(5, worth=3)  # expect-error
EV_SEND_DATA("text")  # expect-error
EV_SEND_DATA(data=None)  # expect-error
EV_COIN(5).amount  # expect-error


class Gate(GObj):
    class config(GObj.config):
        port: int = param("7000", "wrong default")  # expect-error
        host: str = param(None, "wrong default")  # expect-error
        width: int = param(1, "wrong choices", choices=("a", "b"))  # expect-error
        speed: int = param(1, "wrong limit", ge="0")  # expect-error
        level: int = param(1)  # expect-error
        seconds: float = param(5.0, "fine")

    def start_up(self) -> None:
        self.config.hots  # expect-error
        name: str = self.config.port  # expect-error
        self.config.host + 1  # expect-error
        self.send_event(self, 42)  # expect-error
        self.send_event(self, EV_PUSH)  # expect-error
        self.send_event(42, EV_PUSH())  # expect-error
        self.send_event(self, EV_PUSH(), value=1)  # expect-error
        self.post_event(self, b"EV_PUSH")  # expect-error
        self.broadcast_event(EV_PUSH)  # expect-error
        self.subscribe_event(EV_PUSH(), self)  # expect-error
        self.subscribe_event(None, None)  # expect-error
        self.create_gobj("x", GObj(), self)  # expect-error
        self.create_gobj("x", EV_PUSH, self)  # expect-error
        self.create_gobj("x", Gate, self).opened()  # expect-error
        self.set_new_state(7)  # expect-error
        self.children["x"] = self  # expect-error
        self.path = "x"  # expect-error
        self.state = "ST_B"  # expect-error

    def ac_coin(self, event: EV_COIN) -> None:
        event.value.upper()  # expect-error
        event.source.opened()  # expect-error
        event.source = 3  # expect-error

    def ac_push(self, event: EV_PUSH) -> None: ...
    def ac_late(self) -> None: ...
    def ac_two(self, event: EV_PUSH, more: int) -> None: ...

    def dear(self, event: EV_COIN) -> bool:
        return event.value > 5

    machine = {
        "ST_A": [
            on(EV_PUSH, ac_coin),  # expect-error
            on(EV_COIN, None, when=ac_push),  # expect-error
            on(EV_PUSH, ac_push, when=dear),  # expect-error
            on(EV_PUSH, ac_late),  # expect-error
            on(EV_PUSH, ac_two),  # expect-error
            on(EV_PUSH, ac_push, 7),  # expect-error
            on(EV_PUSH, ac_push, may=3),  # expect-error
            on("EV_PUSH", None),  # expect-error
            on(EV_PUSH(), None),  # expect-error
            on(int, None),  # expect-error
            on(EV_PUSH, "ac_push"),  # expect-error
            on(EV_PUSH, POSTPONE(), None),  # expect-error
            after(1, ac_push),  # expect-error
            after(None, ac_late),  # expect-error
            after(1, POSTPONE),  # expect-error
            enter(ac_push),  # expect-error
            enter(None),  # expect-error
            leave(ac_coin),  # expect-error
        ],
    }

    outputs = (EV_PUSH(),)  # expect-error


app = GAplic(7)  # expect-error
app.start(5)  # expect-error
GAplic("app", settings=5)  # expect-error
app.find(7)  # expect-error
"""


class Reported(NamedTuple):
    file: str
    line: int
    message: str


def run_mypy(folder: Path) -> list[Reported]:
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", "--no-pretty"]
    done = subprocess.run(
        [*command, "--cache-dir=.mypy_cache", "right.py", "wrong.py"],
        cwd=folder,
        env={name: value for name, value in os.environ.items() if name != "MYPYPATH"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    found = re.findall(r"^(\w+\.py):(\d+): error: (.*)$", done.stdout, re.MULTILINE)
    return [Reported(file, int(line), message) for file, line, message in found]


def run_pyright(folder: Path) -> list[Reported]:
    pytest.importorskip("pyright", reason="pyright is not installed")
    settings = {"include": ["right.py", "wrong.py"], "typeCheckingMode": "standard"}
    (folder / "pyrightconfig.json").write_text(json.dumps(settings))
    # The interpreter says where msgspec is; without it pyright lets half of the mistakes pass.
    done = subprocess.run(
        [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    return [
        Reported(Path(one["file"]).name, one["range"]["start"]["line"] + 1, one["message"])
        for one in json.loads(done.stdout)["generalDiagnostics"]
        if one["severity"] == "error"
    ]


@pytest.fixture(scope="module", params=[run_mypy, run_pyright], ids=["mypy", "pyright"])
def reports(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> object:
    """What one checker says of both files; it runs once."""
    folder = tmp_path_factory.mktemp("types")
    (folder / "right.py").write_text(RIGHT)
    (folder / "wrong.py").write_text(WRONG)
    return request.param(folder)


def test_right_code_passes(reports: list[Reported]) -> None:
    assert [one for one in reports if one.file == "right.py"] == []


def test_every_mistake_is_reported_on_its_line_and_nothing_else(reports: list[Reported]) -> None:
    lines = WRONG.splitlines()
    marked = {number for number, line in enumerate(lines, 1) if "# expect-error" in line}
    reported = {one.line for one in reports if one.file == "wrong.py"}
    assert len(marked) > 40
    assert [lines[number - 1].strip() for number in sorted(marked - reported)] == []
    assert [one for one in reports if one.file == "wrong.py" and one.line not in marked] == []


def test_right_code_runs() -> None:
    names: dict[str, object] = {"__name__": "right"}
    exec(compile(RIGHT, "right.py", "exec"), names)
    assert "Gate" in names
