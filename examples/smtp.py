"""A mail receiver: SMTP with STARTTLS. It prints who writes to whom about what.

    openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=localhost -keyout mail.pem -out mail.pem
    ginsfsm run examples/smtp.py:Smtp --set smtp.certfile=mail.pem
    openssl s_client -connect localhost:2525 -starttls smtp -crlf -quiet -CAfile mail.pem

`Smtp` listens, and makes a `Session` for each client: a machine of its own, whose table is the
protocol. A line is an event, and so is the command in it. One that the present state does not
accept is what RFC 5321 calls a bad sequence of commands.

What stands behind STARTTLS in plain text may be anybody's, and must not be taken for what the
client says under TLS (CVE-2011-0411): ST_STARTING_TLS throws it away.
"""

import re
from collections.abc import Callable

from ginsfsm import NOT_ACCEPTED, Event, GObj, after, enter, on, param
from ginsfsm.c_sock import (
    EV_CONNECTED,
    EV_DISCONNECTED,
    EV_DROP,
    EV_RX_DATA,
    EV_SEND_DATA,
    EV_START_TLS,
    EV_TLS_STARTED,
    GSock,
)
from ginsfsm.c_srv_sock import GServerSock

ADDRESS = re.compile(rb"(?i)(?:MAIL FROM: ?|RCPT TO: ?(?!<>))(<[^<>\s]*>)(?: .*)?")


class EV_LINE(Event):
    line: bytes  # without its end


class EV_HELO(EV_LINE): ...
class EV_EHLO(EV_LINE): ...
class EV_STARTTLS(EV_LINE): ...
class EV_MAIL(EV_LINE): ...
class EV_RCPT(EV_LINE): ...
class EV_DATA(EV_LINE): ...
class EV_RSET(EV_LINE): ...
class EV_NOOP(EV_LINE): ...
class EV_QUIT(EV_LINE): ...

COMMANDS = {kind.__name__[3:].encode(): kind for kind in EV_LINE.__subclasses__()}


def says(reply: str) -> Callable[[GObj, EV_LINE], str]:
    """An action that does nothing but reply."""
    return lambda _session, _event: reply


class Session(GObj):
    """What one client and we say to each other. What the action for a line returns is the reply."""

    class config(GObj.config):
        gsock: GSock | None = param(None, "the connection")
        max_line: int = param(1000, "longest line in bytes; a longer one ends the session", ge=512)
        max_size: int = param(1_000_000, "longest message in bytes", ge=1)
        patience: float = param(300.0, "seconds for each step of the protocol; 0 is no limit", ge=0)

    def start_up(self) -> None:
        assert self.config.gsock is not None
        self.gsock = self.config.gsock
        self.unfinished = b""  # a line whose end has not come yet, never longer than max_line
        self.gsock.subscribe_event(None, self)
        self.reply("220 localhost ESMTP")

    def reply(self, text: str) -> None:
        self.send_event(self.gsock, EV_SEND_DATA(f"{text}\r\n".encode()))

    def ac_read(self, event: EV_RX_DATA) -> None:
        # Not at a bare LF: what not all servers take for an end can hide a message in another.
        *lines, self.unfinished = (self.unfinished + event.data).split(b"\r\n")
        if len(self.unfinished) > self.config.max_line:
            lines.append(self.unfinished)
        for line in lines:
            if reply := self.send_event(self, EV_LINE(line)):
                self.reply(reply)

    def is_too_long(self, event: EV_LINE) -> bool:
        return len(event.line) > self.config.max_line

    def ac_command(self, event: EV_LINE) -> str | None:
        command = COMMANDS.get(event.line.partition(b" ")[0].upper())
        reply = self.send_event(self, command(event.line)) if command else "500 No such command"
        return "503 Bad sequence of commands" if reply is NOT_ACCEPTED else reply

    def can_start_tls(self, event: EV_LINE) -> bool:
        return self.gsock.config.start_tls and self.gsock.tls is None

    def ac_ehlo(self, event: EV_EHLO) -> str:
        tls = "250-STARTTLS\r\n" if self.can_start_tls(event) else ""
        return f"250-localhost\r\n{tls}250-PIPELINING\r\n250 SIZE {self.config.max_size}"

    def ac_start_tls(self, event: EV_STARTTLS) -> None:
        self.unfinished = b""
        self.reply("220 Go ahead")  # still in plain text
        self.send_event(self.gsock, EV_START_TLS())

    def address(self, event: EV_LINE) -> str:
        found = ADDRESS.fullmatch(event.line)
        return found[1].decode(errors="replace") if found else ""

    def ac_mail(self, event: EV_MAIL) -> str:
        self.envelope, self.text = [self.address(event)], bytearray()
        return "250 Ok"

    def ac_rcpt(self, event: EV_RCPT) -> str:
        if len(self.envelope) > 100:
            return "452 Too many recipients"
        self.envelope.append(self.address(event))
        return "250 Ok"

    def ac_text(self, event: EV_LINE) -> None:
        if len(self.text) <= self.config.max_size:
            self.text += event.line.removeprefix(b".") + b"\r\n"  # a first dot came twice

    def is_end(self, event: EV_LINE) -> bool:
        return event.line == b"."

    def ac_end(self, event: EV_LINE) -> str:
        if len(self.text) > self.config.max_size:
            return "552 Message too long"
        subject = re.search(rb"(?im)^subject:(.*)$", self.text.partition(b"\r\n\r\n")[0])
        about = subject[1].decode(errors="replace") if subject else " no subject"
        print("".join(filter(str.isprintable, f"{' to '.join(self.envelope)}:{about}")), flush=True)
        return "250 Ok"

    def ac_leave(self) -> None:
        self.post_event(self.gsock, EV_DROP())  # posted, since the last reply is still to come

    def ac_gone(self, event: EV_DISCONNECTED) -> None:
        self.destroy_gobj(self.gsock)
        self.destroy_gobj(self)

    always = [on(EV_RX_DATA, ac_read), on(EV_DISCONNECTED, ac_gone)]
    lines = [
        *always,
        on(EV_LINE, says("500 Line too long"), "ST_LEAVING", when=is_too_long),
        after("patience", None, "ST_LEAVING"),
    ]
    commands = [
        *lines,
        on(EV_LINE, ac_command),
        on(EV_HELO, says("250 localhost"), "ST_READY"),
        on(EV_EHLO, ac_ehlo, "ST_READY"),
        on(EV_NOOP, says("250 Ok")),
        on(EV_QUIT, says("221 Bye"), "ST_LEAVING"),
    ]
    machine = {
        "ST_GREETED": [*commands, on(EV_RSET, says("250 Ok"))],
        "ST_READY": [
            *commands,
            on(EV_RSET, says("250 Ok")),
            on(EV_STARTTLS, ac_start_tls, "ST_STARTING_TLS", when=can_start_tls),
            on(EV_MAIL, ac_mail, "ST_MAIL", when=address),
            on(EV_MAIL, says("501 Expected FROM:<address>")),
        ],
        "ST_STARTING_TLS": [*always, on(EV_LINE, None), on(EV_TLS_STARTED, None, "ST_GREETED")],
        "ST_MAIL": [
            *commands,
            on(EV_RSET, says("250 Ok"), "ST_READY"),
            on(EV_RCPT, ac_rcpt, "ST_RCPT", when=address),
            on(EV_RCPT, says("501 Expected TO:<address>")),
        ],
        "ST_RCPT": [
            *commands,
            on(EV_RSET, says("250 Ok"), "ST_READY"),
            on(EV_RCPT, ac_rcpt, when=address),
            on(EV_RCPT, says("501 Expected TO:<address>")),
            on(EV_DATA, says("354 End with a line that is a dot"), "ST_DATA"),
        ],
        "ST_DATA": [*lines, on(EV_LINE, ac_end, "ST_READY", when=is_end), on(EV_LINE, ac_text)],
        "ST_LEAVING": [*always, on(EV_LINE, None), enter(ac_leave)],
    }


class Smtp(GObj):
    """Listens, and makes the sessions."""

    class config(GObj.config):
        port: int = param(2525, "port of 127.0.0.1 to listen on; 0 takes a free one")
        certfile: str = param("", "PEM file of certificate and key; without it no STARTTLS")

    def start_up(self) -> None:
        tls = {"certfile": self.config.certfile} if self.config.certfile else {}
        self.server = self.create_gobj(
            "server", GServerSock, self, host="127.0.0.1", port=self.config.port,
            ssl_options=tls, start_tls=bool(tls), tx_max=64 * 1024)
        print(f"Mail is taken at {self.server.addresses[0]}", flush=True)

    def ac_connected(self, event: EV_CONNECTED) -> None:
        self.create_gobj(None, Session, self, gsock=event.source)
        event.source.delete_subscription(None, self)

    machine = {"ST_OPEN": [on(EV_CONNECTED, ac_connected)]}
