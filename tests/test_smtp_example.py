"""The example of a mail receiver, run by the command as a reader runs it, and seen from outside."""

import os
import signal
import smtplib
import socket
import ssl
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from email.message import EmailMessage
from pathlib import Path

import pytest

import certificates
from programs import BlockingProgram
from sockets import DEADLINE, RESET, set_buffers

ROOT = Path(__file__).parent.parent
EXAMPLE = ROOT / "examples" / "smtp.py"

MAX_LINE = 1000
GREETING = b"220 localhost ESMTP"
MAIL = [b"EHLO me", b"MAIL FROM:<ann@x>", b"RCPT TO:<bob@x>", b"DATA"]
CODES = [b"250", b"250", b"250", b"354"]


class Mail:
    """A receiver that runs, and its clients."""

    def __init__(self, opened: ExitStack, *settings: str) -> None:
        self.opened = opened
        self.program = opened.enter_context(
            BlockingProgram(
                sys.executable, "-W", "always::ResourceWarning", "-m", "ginsfsm", "run",
                "examples/smtp.py:Smtp", "--set", "smtp.port=0", *settings,
                folder=ROOT, environment=dict(os.environ),
            )
        )  # fmt: skip
        found = self.program.says(r"^Mail is taken at 127\.0\.0\.1:(\d+)$")
        self.port = int(found[1])

    def client(self, *, rcvbuf: int = 0) -> "Client":
        """Connected, and greeted."""
        sock = socket.socket()
        set_buffers(sock, rcvbuf, 0)
        sock.connect(("127.0.0.1", self.port))
        client = Client(self.opened, sock)
        assert client.line() == GREETING
        return client

    def smtplib(self) -> smtplib.SMTP:
        return self.opened.enter_context(smtplib.SMTP("localhost", self.port, timeout=DEADLINE))

    def stop(self) -> None:
        """It ends without a traceback and with nothing left open, and is not to blame."""
        # Not SIGTERM, which would wait for those who are connected.
        self.program.process.send_signal(signal.SIGINT)
        assert self.program.ends() == 0, self.program
        assert not self.program.said("Traceback|ResourceWarning|ERROR|Error"), self.program


class Client:
    """A raw client, in plain text or with TLS."""

    def __init__(self, opened: ExitStack, sock: socket.socket) -> None:
        self.opened = opened
        self.sock = opened.enter_context(sock)
        sock.settimeout(DEADLINE)
        self._read = b""

    def line(self) -> bytes:
        """The next line that it hears without CR LF, or b"" at the end."""
        while b"\r\n" not in self._read:
            more = self.sock.recv(65536)
            if not more:
                assert not self._read
                return b""
            self._read += more
        line, _, self._read = self._read.partition(b"\r\n")
        return line

    def reply(self) -> list[bytes]:
        """All lines of the next reply."""
        lines = [self.line()]
        while lines[-1][3:4] == b"-":
            lines.append(self.line())
        return lines

    def code(self) -> bytes:
        return self.reply()[-1][:3]

    def send(self, *lines: bytes) -> None:
        self.sock.sendall(b"".join(line + b"\r\n" for line in lines))

    def say(self, line: bytes) -> bytes:
        """Send a line; the code of the reply."""
        self.send(line)
        return self.code()

    def start_tls(self) -> "Client":
        assert self.say(b"EHLO me") == b"250"
        assert self.say(b"STARTTLS") == b"220"
        assert not self._read
        return self.secured()

    def secured(self) -> "Client":
        secured = trusting().wrap_socket(self.sock, server_hostname="localhost")
        return Client(self.opened, secured)

    def mail(self, *text: bytes) -> bytes:
        """Send a message, a command at a time; the last code."""
        for line, code in zip(MAIL, CODES, strict=True):
            assert self.say(line) == code
        self.send(*text, b".")
        return self.code()


def trusting() -> ssl.SSLContext:
    return ssl.create_default_context(cafile=certificates.ca())


@pytest.fixture
def start(opened: ExitStack) -> Iterator[Callable[..., Mail]]:
    """Run the receiver with these settings; it ends clean after the test."""
    started: list[Mail] = []

    def _start(*settings: str) -> Mail:
        options = [word for one in settings for word in ("--set", one)]
        started.append(Mail(opened, "--set", f"smtp.certfile={certificates.server()}", *options))
        return started[-1]

    yield _start
    for mail in started:
        mail.stop()


@pytest.fixture
def mail(start: Callable[..., Mail]) -> Mail:
    return start()


def a_message(subject: str, text: str) -> EmailMessage:
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = "ann@x", "bob@x, cyd@x", subject
    message.set_content(text)
    return message


class TestSmtplib:
    def test_in_plain_text(self, mail: Mail) -> None:
        with mail.smtplib() as client:
            assert client.send_message(a_message("Hello", "text\n")) == {}
        mail.program.says("^<ann@x> to <bob@x> to <cyd@x>: Hello$")

    def test_with_tls(self, mail: Mail) -> None:
        with mail.smtplib() as client:
            client.ehlo()
            assert client.has_extn("starttls")
            client.starttls(context=trusting())
            client.ehlo()
            assert not client.has_extn("starttls")
            assert client.esmtp_features["size"] == "1000000"
            for number in range(3):
                client.send_message(a_message(f"Number {number}", "text\n"))
                mail.program.says(f": Number {number}$")
            with pytest.raises(smtplib.SMTPNotSupportedError):
                client.starttls(context=trusting())
        assert (
            mail.program.said("^<ann@x> to <bob@x> to <cyd@x>: Number")
            == [b"<ann@x> to <bob@x> to <cyd@x>: Number"] * 3
        )

    def test_a_long_message(self, mail: Mail) -> None:
        line = "A line of fifty characters, with those of its end\n"
        with mail.smtplib() as client:
            client.starttls(context=trusting())
            client.send_message(a_message("Long", line * 18_000))
            mail.program.says(": Long$")
            with pytest.raises(smtplib.SMTPDataError) as caught:
                client.send_message(a_message("Longer", line * 25_000))
            assert caught.value.smtp_code == 552
            # The next one is welcome.
            client.send_message(a_message("Short", "text\n"))
            mail.program.says(": Short$")
        assert not mail.program.said("Longer")

    def test_without_a_certificate(self, opened: ExitStack) -> None:
        mail = Mail(opened)
        with mail.smtplib() as client:
            client.ehlo()
            assert not client.has_extn("starttls")
            assert client.docmd("STARTTLS")[0] == 503
            client.send_message(a_message("Hello", "text\n"))
        mail.program.says(": Hello$")
        mail.stop()


class TestStartTls:
    def test_what_is_pipelined_behind_it_is_not_executed(self, mail: Mail) -> None:
        client = mail.client()
        client.send(b"EHLO me", b"STARTTLS", b"MAIL FROM:<evil@x>", b"RCPT TO:<bob@x>", b"NO")
        assert client.reply()[0] == b"250-localhost"
        assert client.code() == b"220"
        secured = client.secured()
        # Nothing has been answered, no sender is known, and nobody was introduced.
        assert secured.say(b"RCPT TO:<bob@x>") == b"503"
        assert secured.say(b"MAIL FROM:<ann@x>") == b"503"
        # Nor was the beginning of a line kept.
        assert secured.mail(b"Subject: mine", b"", b"text") == b"250"
        mail.program.says("^<ann@x> to <bob@x>: mine$")
        assert not mail.program.said("evil")

    def test_what_comes_in_plain_text_after_the_answer_is_no_tls(self, mail: Mail) -> None:
        client = mail.client()
        assert client.say(b"EHLO me") == b"250"
        assert client.say(b"STARTTLS") == b"220"
        client.send(*MAIL, *[b"MAIL FROM:<evil@x>"] * 10)
        heard = b""
        try:
            while more := client.sock.recv(1000):
                heard += more
        except ConnectionResetError:
            pass
        # At most an alert.
        assert b"50" not in heard
        assert len(heard) < 20
        mail.program.says("the TLS handshake with .* failed")

    def test_the_client_goes_instead(self, mail: Mail) -> None:
        client = mail.client()
        assert client.say(b"EHLO me") == b"250"
        assert client.say(b"STARTTLS") == b"220"
        client.sock.close()
        mail.program.says("the TLS handshake with .* failed")
        assert mail.client().mail(b"Subject: still here") == b"250"

    def test_the_client_resets_instead(self, mail: Mail) -> None:
        for _ in range(20):
            client = mail.client()
            client.send(b"EHLO me", b"STARTTLS")
            client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            client.sock.close()
        assert mail.client().mail(b"Subject: still here") == b"250"

    def test_twice(self, mail: Mail) -> None:
        secured = mail.client().start_tls()
        assert secured.say(b"EHLO me") == b"250"
        assert secured.say(b"STARTTLS") == b"503"
        assert secured.mail(b"Subject: and on") == b"250"

    def test_only_between_messages(self, mail: Mail) -> None:
        client = mail.client()
        assert client.say(b"STARTTLS") == b"503"
        # RFC 5321: at any time, also before there is anything to forget.
        assert client.say(b"RSET") == b"250"
        assert client.say(b"EHLO me") == b"250"
        assert client.say(b"MAIL FROM:<ann@x>") == b"250"
        assert client.say(b"STARTTLS") == b"503"
        assert client.say(b"RSET") == b"250"
        client.start_tls()

    @pytest.mark.peer
    def test_openssl(self, mail: Mail, require_program: Callable[[str], str]) -> None:
        with BlockingProgram(
            require_program("openssl"), "s_client", "-connect", f"localhost:{mail.port}",
            "-starttls", "smtp", "-crlf", "-CAfile", certificates.ca(), "-verify_return_error",
            "-verify_hostname", "localhost",
        ) as client:  # fmt: skip
            client.says(r"Verify return code: 0 \(ok\)")
            # Not RCPT, which it takes for its command R.
            for line, code in (
                ("EHLO me", "250 SIZE"),
                ("MAIL FROM:<ann@x>", "250 Ok"),
                ("rcpt to:<bob@x>", "250 Ok"),
                ("DATA", "354"),
            ):
                client.type(f"{line}\n")
                client.says(code)
            client.type("Subject: by hand\n\ntext\n.\n")
            client.says("250 Ok")
            mail.program.says("^<ann@x> to <bob@x>: by hand$")
            client.type("quit\n")
            client.says("221 Bye")
            client.says("^closed$")
            assert client.ends() == 0

    @pytest.mark.peer
    def test_gnutls(self, mail: Mail, require_program: Callable[[str], str]) -> None:
        with BlockingProgram(
            require_program("gnutls-cli"), "--starttls-proto=smtp", "--crlf",
            "--x509cafile", certificates.ca(), "-p", str(mail.port), "localhost",
        ) as client:  # fmt: skip
            client.says("The certificate is trusted")
            client.says("^- Options:")
            for line, code in zip(MAIL, ("250 SIZE", "250 Ok", "250 Ok", "354"), strict=True):
                client.type(f"{line.decode()}\n")
                client.says(code)
            for line in ("Subject: by hand", "", "."):
                # It changes the end of a line only where it has read no more than that line.
                client.type(f"{line}\n")
            client.says("250 Ok")
            mail.program.says("^<ann@x> to <bob@x>: by hand$")
            client.type("QUIT\n")
            client.says("221 Bye")
            client.says("Peer has closed the GnuTLS connection")
            client.ends()


class TestLines:
    @pytest.mark.parametrize("tls", [False, True])
    def test_a_byte_at_a_time(self, tls: bool, mail: Mail) -> None:
        client = mail.client()
        if tls:
            client = client.start_tls()
        client.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
        said = b"\r\n".join([*MAIL, b"Subject: slow", b"", b".", b"QUIT", b""])
        for number in range(len(said)):
            client.sock.sendall(said[number : number + 1])
        assert [client.code() for _ in range(6)] == [*CODES, b"250", b"221"]
        assert client.line() == b""
        mail.program.says("^<ann@x> to <bob@x>: slow$")

    @pytest.mark.parametrize("tls", [False, True])
    def test_all_at_once(self, tls: bool, mail: Mail) -> None:
        client = mail.client()
        if tls:
            client = client.start_tls()
        client.send(*[*MAIL, b"Subject: at once", b"", b"text", b"."] * 20, b"QUIT")
        assert [client.code() for _ in range(101)] == [*CODES, b"250"] * 20 + [b"221"]
        assert client.line() == b""
        for _ in range(20):
            mail.program.says("^<ann@x> to <bob@x>: at once$")

    def test_only_cr_lf_ends_a_line(self, mail: Mail) -> None:
        client = mail.client()
        for line, code in zip(MAIL, CODES, strict=True):
            assert client.say(line) == code
        client.send(b"Subject: mine")
        # The end of the message with half of the ends of its line, and then the next one.
        smuggled = b"MAIL FROM:<evil@x>\r\nRCPT TO:<bob@x>\r\nDATA\r\nSubject: smuggled\r\n"
        for end in (b"\n.\n", b"\n.\r\n", b"\r.\r", b"\r\n.\n", b"\r\n.\r", b"\n.\n\r\n"):
            client.sock.sendall(b"text" + end + smuggled)
        client.send(b"", b".")
        assert client.code() == b"250"
        assert client.say(b"NOOP") == b"250"
        mail.program.says("^<ann@x> to <bob@x>: mine$")
        assert len(mail.program.said("^<")) == 1

    def test_dots(self, mail: Mail) -> None:
        client = mail.client()
        assert client.mail(b"..", b"...", b"Subject: after dots") == b"250"
        mail.program.says(": after dots$")

    def test_the_subject_is_in_the_head_only_and_printable(self, mail: Mail) -> None:
        client = mail.client()
        assert client.mail(b"X: y", b"", b"Subject: of the body") == b"250"
        mail.program.says("^<ann@x> to <bob@x>: no subject$")
        assert client.mail(b"SUBJECT: \x1b[2J\xff\x00gr\xc3\xbc\xc3\x9f") == b"250"
        mail.program.says("^<ann@x> to <bob@x>: \\[2J\ufffdgrüß$")

    @pytest.mark.parametrize("where", ["command", "message"])
    def test_the_longest_line_and_one_more_byte(self, where: str, mail: Mail) -> None:
        client = mail.client()
        if where == "message":
            for line, code in zip(MAIL, CODES, strict=True):
                assert client.say(line) == code
            client.send(b"x" * MAX_LINE)
        else:
            assert client.say(b"NOOP " + b"x" * (MAX_LINE - 5)) == b"250"
        # What comes behind it is not executed.
        client.send(b"x" * (MAX_LINE + 1), b"QUIT", b"NOOP")
        assert client.line() == b"500 Line too long"
        assert client.line() == b""

    def test_a_mebibyte_without_an_end_of_line(self, mail: Mail) -> None:
        client = mail.client()
        client.sock.sendall(b"x" * (1 << 20))
        assert client.line() == b"500 Line too long"
        assert client.line() == b""
        assert mail.client().say(b"NOOP") == b"250"

    def test_a_client_that_never_reads(self, mail: Mail) -> None:
        client = mail.client(rcvbuf=4096)
        # The command with the longest reply. It goes when 64 KiB of replies wait, beside what the
        # two kernels hold.
        commands = b"EHLO\r\n" * 10_000
        try:
            for _ in range(200):
                client.sock.sendall(commands)
            pytest.fail("12 MB of commands, and it still listens")
        except (ConnectionResetError, BrokenPipeError):
            pass
        assert mail.client().say(b"NOOP") == b"250"


class TestCommands:
    def test_bad_ones(self, mail: Mail) -> None:
        client = mail.client()
        for line, code in (
            (b"", b"500"),
            (b"HELLO", b"500"),
            (b"\xff\xfe\x00", b"500"),
            (b"LINE", b"500"),
            (b"RX_DATA x", b"500"),
            (b"MAIL FROM:<ann@x>", b"503"),
            (b"DATA", b"503"),
            (b"helo me", b"250"),
            (b"RCPT TO:<bob@x>", b"503"),
            (b"MAIL", b"501"),
            (b"MAIL FROM:ann@x", b"501"),
            (b"MAIL TO:<ann@x>", b"501"),
            (b"MAIL FROM:<a b>", b"501"),
            (b"mail from:<> SIZE=100 BODY=8BITMIME", b"250"),
            (b"MAIL FROM:<ann@x>", b"503"),
            (b"DATA", b"503"),
            (b"RCPT TO:<>", b"501"),
            (b"RCPT FROM:<bob@x>", b"501"),
            (b"Rcpt To: <bob@x>", b"250"),
            (b"RCPT", b"501"),
            (b"NOOP", b"250"),
            (b"EHLO again", b"250"),
            (b"RCPT TO:<bob@x>", b"503"),
            (b"QUIT", b"221"),
        ):
            assert (line, client.say(line)) == (line, code)
        assert client.line() == b""

    def test_rset_forgets(self, mail: Mail) -> None:
        client = mail.client()
        for line in MAIL[:3]:
            assert client.say(line) == b"250"
        assert client.say(b"RSET") == b"250"
        assert client.say(b"DATA") == b"503"
        client.say(b"MAIL FROM:<cyd@x>")
        client.say(b"RCPT TO:<dan@x>")
        assert client.say(b"DATA") == b"354"
        client.send(b"Subject: mine", b".")
        assert client.code() == b"250"
        mail.program.says("^<cyd@x> to <dan@x>: mine$")

    def test_a_hundred_recipients(self, mail: Mail) -> None:
        client = mail.client()
        assert client.say(b"EHLO me") == client.say(b"MAIL FROM:<ann@x>") == b"250"
        client.send(*[b"RCPT TO:<bob%d@x>" % number for number in range(102)])
        assert [client.code() for _ in range(102)] == [b"250"] * 100 + [b"452"] * 2
        assert client.say(b"DATA") == b"354"

    def test_patience(self, start: Callable[..., Mail]) -> None:
        mail = start("Session.patience=0.2")
        client = mail.client()
        assert client.say(b"EHLO me") == b"250"
        assert client.line() == b""

    def test_two_at_once_have_nothing_to_do_with_each_other(self, mail: Mail) -> None:
        one, two = mail.client(), mail.client().start_tls()
        assert one.say(b"EHLO one") == two.say(b"EHLO two") == b"250"
        assert one.say(b"MAIL FROM:<one@x>") == two.say(b"MAIL FROM:<two@x>") == b"250"
        assert one.say(b"RCPT TO:<bob@x>") == two.say(b"RCPT TO:<cyd@x>") == b"250"
        assert two.say(b"DATA") == b"354"
        two.send(b"Subject: two")
        one.sock.close()
        two.send(b".")
        assert two.code() == b"250"
        mail.program.says("^<two@x> to <cyd@x>: two$")


def test_its_length() -> None:
    assert len(EXAMPLE.read_text().splitlines()) <= 200
