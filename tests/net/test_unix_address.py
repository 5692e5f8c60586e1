"""Unix sockets: what stands there already, whose the file is, and how it goes."""

import grp
import os
import pwd
import socket
import stat
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from ginsfsm.net.addresses import ListenError, format_address
from ginsfsm.net.listening import Listening
from ginsfsm.net.unix_address import listen_on_path, owner_fault, read_mode
from servers import DEADLINE

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "s.sock"


@pytest.fixture
def listening(opened: ExitStack, path: Path) -> Callable[..., Listening]:
    def _listening(at: object = path, **wanted: Any) -> Listening:
        found = listen_on_path(str(at), **{"backlog": 4, **wanted})
        opened.callback(found.close)
        return found

    return _listening


def served_at(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        try:
            client.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return False
    return True


def leave_stale(path: Path) -> None:
    """What a server leaves behind that is killed."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
        sock.listen(1)


def refused(at: object, **wanted: Any) -> str:
    before = set(os.listdir("/proc/self/fd"))
    with pytest.raises(ListenError) as caught:
        listen_on_path(str(at), **{"backlog": 4, **wanted})
    assert set(os.listdir("/proc/self/fd")) == before
    assert [one.address for one in caught.value.attempts] in ([str(at)], [])
    message = str(caught.value)
    assert message.startswith(f"cannot listen on unix_path '{at}': ")
    return message.removeprefix(f"cannot listen on unix_path '{at}': ")


class TestAFile:
    def test_it_listens(self, listening: Callable[..., Listening], path: Path) -> None:
        (sock,) = listening().sockets
        assert stat.S_ISSOCK(path.stat().st_mode)
        assert sock.getsockname() == str(path)
        assert not sock.getblocking()
        assert not sock.get_inheritable()
        assert served_at(path)

    def test_a_relative_path(
        self, listening: Callable[..., Listening], path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(path.parent)
        found = listening("s.sock")
        monkeypatch.chdir("/")
        assert served_at(path)
        found.close()
        assert not path.exists()

    def test_a_name_that_begins_with_an_at_sign(
        self, listening: Callable[..., Listening], path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(path.parent)
        listening("./@x")
        assert path.with_name("@x").exists()


class TestWhatStandsThereAlready:
    def test_a_stale_socket_is_replaced(
        self, listening: Callable[..., Listening], path: Path
    ) -> None:
        leave_stale(path)
        listening()
        assert served_at(path)

    def test_one_on_which_somebody_listens_stays(
        self, listening: Callable[..., Listening], path: Path
    ) -> None:
        listening()
        assert refused(path) == (
            "another program, or another server of this one, listens there. Stop the one that "
            "listens there, or give another path."
        )
        assert served_at(path)

    def test_one_whose_queue_is_full_stays(self, opened: ExitStack, path: Path) -> None:
        server = opened.enter_context(socket.socket(socket.AF_UNIX))
        server.bind(str(path))
        server.listen(0)
        while True:
            client = opened.enter_context(socket.socket(socket.AF_UNIX))
            client.setblocking(False)
            try:
                client.connect(str(path))
            except BlockingIOError:
                break
        assert "listens there" in refused(path)
        assert path.exists()

    def test_one_of_another_type_stays(self, opened: ExitStack, path: Path) -> None:
        other = opened.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
        other.bind(str(path))
        assert refused(path).startswith("another program has a socket of another type there.")
        assert path.exists()

    @pytest.mark.parametrize("kind", ["a file", "a folder", "a symbolic link", "a pipe"])
    def test_what_is_no_socket_stays(self, kind: str, path: Path) -> None:
        match kind:
            case "a file":
                path.write_text("precious")
            case "a folder":
                path.mkdir()
            case "a symbolic link":
                # To a stale socket, too: what it points to is not what was given.
                leave_stale(path.with_name("other"))
                path.symlink_to(path.with_name("other"))
            case _:
                os.mkfifo(path)
        before = path.lstat()
        assert refused(path) == (
            f"there is {kind} there already, which is no socket. Look what it is, and remove it or "
            "give another path."
        )
        assert (path.lstat().st_ino, path.lstat().st_mode) == (before.st_ino, before.st_mode)

    def test_of_two_that_start_at_once_one_listens(
        self, path: Path, listening: Callable[..., Listening], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The second comes when the first has bound and does not listen yet."""
        leave_stale(path)
        monkeypatch.setattr("ginsfsm.net.unix_address.LOCK_WAIT", DEADLINE)
        told: list[str] = []
        second: list[threading.Thread] = []

        def come_second() -> None:
            try:
                listening()
            except ListenError as error:
                told.append(str(error))

        class Interrupted(socket.socket):
            def listen(self, backlog: int = 1, /) -> None:
                if not second:
                    second.append(threading.Thread(target=come_second))
                    second[0].start()
                    # Its chance to take our file; it waits for the lock and cannot end here.
                    second[0].join(0.2)
                super().listen(backlog)

        monkeypatch.setattr(socket, "socket", Interrupted)
        (first,) = listening().sockets
        second[0].join(DEADLINE)
        assert len(told) == 1
        assert "listens there" in told[0]
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
            # Behind the second one's question.
            for _ in range(2):
                first.accept()[0].close()


class TestFolder:
    def test_that_there_is_not(self, tmp_path: Path) -> None:
        assert refused(tmp_path / "no" / "s") == (
            f"there is no folder '{tmp_path}/no'. Make it before the server starts."
        )

    def test_that_is_a_file(self, tmp_path: Path) -> None:
        (tmp_path / "f").touch()
        assert refused(tmp_path / "f" / "s") == (
            f"'{tmp_path}/f' is no folder. Give the path of a file in a folder."
        )

    def test_that_is_locked_by_a_stranger_for_ever(
        self, listening: Callable[..., Listening], path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import fcntl

        monkeypatch.setattr("ginsfsm.net.unix_address.LOCK_WAIT", 0.05)
        fd = os.open(path.parent, os.O_RDONLY)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            listening()
        finally:
            os.close(fd)
        assert served_at(path)

    @needs_root
    def test_that_this_process_may_not_write_to(self, tmp_path: Path) -> None:
        (tmp_path / "d").mkdir(mode=0o755)
        assert as_nobody(tmp_path, "d/s").endswith(
            "this process may not make a file in 'd'. Give it the right to, or another path."
        )

    @needs_root
    def test_a_stale_socket_of_somebody_else(self, tmp_path: Path) -> None:
        folder = tmp_path / "d"
        folder.mkdir()
        # As /tmp: everybody may make files, and remove only their own.
        folder.chmod(0o1777)
        leave_stale(folder / "s")
        (folder / "s").chmod(0o666)
        assert "nobody listens on the socket that is there, and it cannot be removed (" in (
            as_nobody(tmp_path, "d/s")
        )
        (folder / "s").chmod(0o600)
        assert "it cannot be told whether anybody listens there (Permission denied (EACCES))" in (
            as_nobody(tmp_path, "d/s")
        )
        assert (folder / "s").exists()


def as_nobody(folder: Path, path: str, **wanted: Any) -> str:
    """What an unprivileged process is told that tries to listen there."""
    # It is in the folder before it gives its rights away: the folders above are root's alone.
    folder.chmod(folder.stat().st_mode | 0o055)
    program = f"""
        import os
        os.chdir({str(folder)!r})
        from ginsfsm.net.unix_address import listen_on_path
        from ginsfsm.net.addresses import ListenError
        os.setgroups([]); os.setgid(65534); os.setuid(65534)
        try:
            listen_on_path({path!r}, backlog=1, **{wanted!r}).close()
        except ListenError as error:
            print(error)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


class TestModeAndOwner:
    @pytest.mark.parametrize("mode", [0o600, 0o660, 0o777, 0])
    def test_mode_whatever_the_umask(
        self, mode: int, listening: Callable[..., Listening], path: Path
    ) -> None:
        before = os.umask(0o077)
        try:
            listening(mode=mode)
        finally:
            os.umask(before)
        assert stat.S_IMODE(path.stat().st_mode) == mode

    def test_without_a_mode_the_umask_says(
        self, listening: Callable[..., Listening], path: Path
    ) -> None:
        before = os.umask(0o027)
        try:
            listening()
        finally:
            os.umask(before)
        assert stat.S_IMODE(path.stat().st_mode) == 0o750

    @needs_root
    @pytest.mark.parametrize(
        ("owner", "user", "group"),
        [
            ("nobody", "nobody", "root"),
            ("nobody:adm", "nobody", "adm"),
            (":adm", "root", "adm"),
            ("65534:4", "nobody", "adm"),
        ],
    )
    def test_owner(
        self, owner: str, user: str, group: str, listening: Callable[..., Listening], path: Path
    ) -> None:
        listening(owner=owner, mode=0o660)
        found = path.stat()
        assert found.st_uid == pwd.getpwnam(user).pw_uid
        assert found.st_gid == grp.getgrnam(group).gr_gid
        assert stat.S_IMODE(found.st_mode) == 0o660

    @pytest.mark.parametrize(
        ("owner", "word"), [("nosuchuser", "user 'nosuchuser'"), (":nosuch", "group 'nosuch'")]
    )
    def test_who_does_not_exist(self, owner: str, word: str, path: Path) -> None:
        assert refused(path, owner=owner) == (
            f"unix_owner {owner!r}: there is no {word} on this machine. Give one that exists, by "
            "name or number: 'user', 'user:group' or ':group'."
        )
        assert not path.exists()

    @needs_root
    def test_one_to_whom_it_cannot_be_given(self, tmp_path: Path) -> None:
        tmp_path.chmod(0o777)
        assert as_nobody(tmp_path, "s", owner="root") == (
            "cannot listen on unix_path 's': it cannot be given to unix_owner 'root' (Operation "
            "not permitted (EPERM)). Only a privileged process gives files away; any other gives "
            "them to its own groups."
        )
        # What had been bound is gone.
        assert not (tmp_path / "s").exists()

    def test_whatever_goes_wrong_no_file_is_left(self, path: Path) -> None:
        # No OSError, since no user has that number.
        with pytest.raises(OverflowError):
            listen_on_path(str(path), backlog=1, owner=str(1 << 32))
        assert not path.exists()

    @pytest.mark.parametrize(
        ("text", "mode"),
        [("660", 0o660), ("0660", 0o660), ("0o660", 0o660), ("1777", 0o1777), ("000", 0)],
    )
    def test_mode_in_digits(self, text: str, mode: int) -> None:
        assert read_mode(text) == mode

    @pytest.mark.parametrize("text", ["", "66", "888", "0x1ff", "rw-rw-r--", "00660", "-660"])
    def test_what_is_no_mode(self, text: str) -> None:
        assert read_mode(text) is None

    @pytest.mark.parametrize("owner", ["www-data", "a:b", ":b", "0", "0:0"])
    def test_form_of_an_owner(self, owner: str) -> None:
        assert owner_fault(owner) is None


class TestTheEnd:
    def test_the_file_goes(self, listening: Callable[..., Listening], path: Path) -> None:
        listening().close()
        assert not path.exists()

    def test_it_has_gone_already(self, listening: Callable[..., Listening], path: Path) -> None:
        found = listening()
        path.unlink()
        found.close()

    def test_somebody_elses_stays(
        self, listening: Callable[..., Listening], path: Path, opened: ExitStack
    ) -> None:
        found = listening()
        path.unlink()
        successor = opened.enter_context(socket.socket(socket.AF_UNIX))
        successor.bind(str(path))
        successor.listen(4)
        found.close()
        assert served_at(path)

    def test_a_file_that_came_in_its_place_stays(
        self, listening: Callable[..., Listening], path: Path
    ) -> None:
        found = listening()
        other = path.with_name("other")
        other.write_text("precious")
        other.replace(path)
        found.close()
        assert path.read_text() == "precious"

    def test_in_a_fork_it_stays(self, listening: Callable[..., Listening], path: Path) -> None:
        found = listening()
        child = os.fork()
        if not child:
            try:
                found.close()
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        assert served_at(path)

    def test_the_socket_is_closed_also_where_the_file_cannot_be_removed(
        self, opened: ExitStack, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        found = listen_on_path(str(path), backlog=1)

        def denied(*_: object) -> None:
            raise PermissionError(13, "Permission denied", str(path))

        with monkeypatch.context() as patched:
            patched.setattr(os, "unlink", denied)
            with pytest.raises(PermissionError):
                found.close()
        assert found.sockets[0].fileno() == -1


class TestAbstract:
    def test_it_has_no_file(
        self, listening: Callable[..., Listening], tmp_path: Path, opened: ExitStack
    ) -> None:
        name = f"@ginsfsm-{tmp_path.name}-{os.getpid()}"
        found = listening(name)
        (sock,) = found.sockets
        assert sock.getsockname() == f"\0{name[1:]}".encode()
        assert format_address(sock.getsockname()) == name
        client = opened.enter_context(socket.socket(socket.AF_UNIX))
        client.connect(f"\0{name[1:]}")
        assert "listens there" in refused(name)
        found.close()
        assert found.sockets[0].fileno() == -1
