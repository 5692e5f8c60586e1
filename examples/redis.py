"""A small Redis. `ginsfsm run examples/redis.py:Redis`, then `redis-cli -p 6380 set name ann`.

`Redis` keeps the data and listens; each client has a `Client` of its own (`session`). A command is
an array of strings. `Commands` is the framing: it cuts the bytes after each whole command, and the
client takes it apart. What a client sends with one call is answered with one call.
"""

from collections.abc import Callable

from ginsfsm import GObj, on, param
from ginsfsm.c_sock import EV_DROP, EV_FLUSH_OUTPUT_DATA, EV_RX_FRAME, EV_WRITE_OUTPUT_DATA, GSock
from ginsfsm.c_srv_sock import EV_DRAINING, GServerSock
from ginsfsm.net.framing import FrameError

OK, PONG, NIL, NONE = b"+OK\r\n", b"+PONG\r\n", b"$-1\r\n", b"*0\r\n"
MAX_WORDS = 1024 * 1024
MAX_LINE = 1000  # bytes of a command without lengths, which is searched again as it grows


class Commands:
    """The framing: a frame is one command as it came, or a line that `telnet` sends."""

    def __init__(self, max_frame: int) -> None:
        self.max_frame = max_frame
        self.held = bytearray()
        self.at = 0  # so many bytes of the next command have been looked at, up to a whole word
        self.missing = 0  # words of it that have not come

    def split(self, data: bytes) -> list[bytes]:
        self.held += data
        frames = []
        begin = 0
        try:
            while (end := self.end_of_command(begin)) >= 0:
                frames.append(bytes(self.held[begin:end]))
                begin = self.at = end
        except FrameError as error:
            error.frames = frames
            raise
        finally:
            del self.held[:begin]
            self.at -= begin
        return frames

    def end_of_command(self, begin: int) -> int:
        """Where the command ends, or -1 when it has not come whole."""
        while True:
            line_end = self.held.find(b"\n", self.at, self.at + MAX_LINE) + 1
            if not line_end and len(self.held) - self.at < MAX_LINE:
                return -1
            if not line_end or line_end - begin > self.max_frame:
                raise FrameError("a command that is too long")
            first = self.held[self.at]
            if not self.missing:
                self.at = line_end
                if first != ord("*"):
                    return line_end
                self.missing = self.number(begin + 1, line_end, MAX_WORDS)
            else:
                if first != ord("$"):
                    raise FrameError("a word without its length")
                size = self.number(self.at + 1, line_end, self.max_frame)
                word_end = line_end + size + 2
                if word_end - begin > self.max_frame:
                    raise FrameError("a command that is too long")
                if word_end > len(self.held):
                    return -1
                self.at = word_end
                self.missing -= 1
            if not self.missing:
                return self.at

    def number(self, begin: int, end: int, most: int) -> int:
        digits = bytes(self.held[begin:end]).strip()
        if not digits.isdigit() or len(digits) > 9 or int(digits) > most:
            raise FrameError("a length that is none")
        return int(digits)

    def wrap(self, frame: bytes) -> bytes:
        return frame

    def rest(self) -> bytes:
        held, self.held, self.at, self.missing = bytes(self.held), bytearray(), 0, 0
        return held


def words_of(frame: bytes) -> list[bytes]:
    """The words of a command."""
    if not frame.startswith(b"*"):
        return frame.split()
    words, at = [], frame.index(b"\n") + 1
    while at < len(frame):
        begin = frame.index(b"\n", at) + 1
        end = begin + int(frame[at + 1 : begin])
        words.append(frame[begin:end])
        at = end + 2
    return words


def bulk(word: bytes) -> bytes:
    """An answer of any bytes."""
    return b"$%d\r\n%b\r\n" % (len(word), word)


class Client(GObj):
    """Carries out what one client asks for."""

    def ac_command(self, event: EV_RX_FRAME) -> None:
        words = words_of(event.data)
        if not words:
            return  # an empty line
        name, *given = words
        found = COMMANDS.get(name.upper())
        if found is None:
            answer = b"-ERR unknown command\r\n"
        elif not found[0] <= len(given) <= found[1]:
            answer = b"-ERR wrong number of arguments\r\n"
        else:
            answer = found[2](self, *given)
        gsock = event.source
        assert isinstance(gsock, GSock)
        if not gsock.queued:
            self.post_event(gsock, EV_FLUSH_OUTPUT_DATA())  # once for all that come together
        self.send_event(gsock, EV_WRITE_OUTPUT_DATA(answer))

    def ac_drain(self, event: EV_DRAINING) -> None:
        for gsock in self.children.values():
            self.send_event(gsock, EV_DROP())

    def start_up(self) -> None:
        self.data: dict[bytes, bytes] = getattr(self.parent, "data")  # noqa: B009

    def ping(self, *word: bytes) -> bytes:
        return bulk(word[0]) if word else PONG

    def set(self, key: bytes, value: bytes) -> bytes:
        self.data[key] = value
        return OK

    def get(self, key: bytes) -> bytes:
        value = self.data.get(key)
        return NIL if value is None else bulk(value)

    def delete(self, *keys: bytes) -> bytes:
        return b":%d\r\n" % sum(self.data.pop(key, None) is not None for key in keys)

    def exists(self, *keys: bytes) -> bytes:
        return b":%d\r\n" % sum(key in self.data for key in keys)

    def incr(self, key: bytes) -> bytes:
        value = self.data.get(key, b"0")
        if not value.removeprefix(b"-").isdigit() or len(value) > 18:
            return b"-ERR value is not an integer or out of range\r\n"
        self.data[key] = b"%d" % (int(value) + 1)
        return b":%b\r\n" % self.data[key]

    def info(self, *sections: bytes) -> bytes:
        return bulk(b"# Server\r\nredis_version:7.0.0\r\n")

    def nothing(self, *words: bytes) -> bytes:
        return NONE

    machine = {
        "ST_OPEN": [
            on(EV_RX_FRAME, ac_command),
            on(EV_DRAINING, ac_drain),
        ],
    }


# At least and at most so many words, and what answers.
COMMANDS: dict[bytes, tuple[int, int, Callable[..., bytes]]] = {
    b"PING": (0, 1, Client.ping),
    b"ECHO": (1, 1, Client.ping),
    b"SET": (2, 2, Client.set),
    b"GET": (1, 1, Client.get),
    b"DEL": (1, MAX_WORDS, Client.delete),
    b"EXISTS": (1, MAX_WORDS, Client.exists),
    b"INCR": (1, 1, Client.incr),
    b"INFO": (0, 9, Client.info),
    b"COMMAND": (0, 9, Client.nothing),
    b"CONFIG": (1, 9, Client.nothing),
}


class Redis(GObj):
    """Keeps the data, and listens."""

    class config(GObj.config):
        port: int = param(6380, "port of 127.0.0.1 to listen on; 0 takes a free one")
        max_command: int = param(1 << 20, "bytes of the longest command", ge=1)

    def start_up(self) -> None:
        self.data: dict[bytes, bytes] = {}
        self.server = self.create_gobj(
            "server", GServerSock, self, host="127.0.0.1", port=self.config.port,
            session=Client, framing=Commands, max_frame=self.config.max_command)
        print(f"Redis is at {self.server.addresses[0]}", flush=True)

    machine = {"ST_OPEN": []}
