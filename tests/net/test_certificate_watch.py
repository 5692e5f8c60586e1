"""CertificateWatch: which certificates run out, and whether their files have changed."""

import os
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from ginsfsm.net.certificate import Certificate
from ginsfsm.net.certificate_watch import CertificateWatch
from ginsfsm.net.file_identity import file_identity

NOW = datetime(2030, 6, 1, 12, tzinfo=UTC)


def certificate(days: float, file: str = "server.pem", *names: str) -> Certificate:
    """One that is valid for so many days from `NOW` on."""
    end = NOW + timedelta(days=days)
    return Certificate(file, names, end - timedelta(days=90), end)


def told(watch: CertificateWatch, *found: Certificate, after: float = 0) -> list[str]:
    return list(watch.warnings(found, NOW + timedelta(days=after)))


# -- the days left ---------------------------------------------------------------------------------


@pytest.mark.parametrize("days", [14.01, 15, 89, 3650])
def test_nothing_is_said_while_there_is_time(days: float) -> None:
    assert told(CertificateWatch(), certificate(days)) == []


@pytest.mark.parametrize(
    ("days", "words"),
    [
        (14, "expires in 14.0 days"),
        (13.5, "expires in 13.5 days"),
        (7, "expires in 7.0 days"),
        (1, "expires in 1.0 days"),
        (0.2, "expires in 0.2 days"),
        (0, "has expired"),
        (-0.1, "has expired"),
        (-400, "has expired"),
    ],
)
def test_what_is_said(days: float, words: str) -> None:
    (said,) = told(CertificateWatch(), certificate(days, "a.pem", "a.example", "b.example"))
    assert words in said
    assert "a.pem" in said
    assert "a.example, b.example" in said
    assert f"{NOW + timedelta(days=days):%Y-%m-%d %H:%M} UTC" in said


def test_a_certificate_without_a_name() -> None:
    (said,) = told(CertificateWatch(), certificate(3))
    assert "server.pem (without a name)" in said


def test_each_threshold_once() -> None:
    watch = CertificateWatch()
    one = certificate(20)
    days = [
        hour / 24 for hour in range(24 * 30) if told(watch, one, after=hour / 24)
    ]  # looked at each hour
    assert days == [6, 13, 19, 20]


def test_thresholds_that_were_slept_through_are_said_as_one() -> None:
    watch = CertificateWatch()
    one = certificate(20)
    assert told(watch, one) == []
    assert len(told(watch, one, after=19.5)) == 1
    assert told(watch, one, after=19.6) == []
    assert len(told(watch, one, after=21)) == 1
    assert told(watch, one, after=99) == []


def test_each_certificate_by_itself() -> None:
    watch = CertificateWatch()
    assert len(told(watch, certificate(10, "a"), certificate(10, "b"), certificate(50, "c"))) == 2
    assert told(watch, certificate(10, "b"), certificate(10, "a")) == []
    assert len(told(watch, certificate(10, "d"), certificate(10, "a"))) == 1


def test_a_renewed_certificate_in_the_same_file_is_another_one() -> None:
    watch = CertificateWatch()
    assert told(watch, certificate(3))
    assert told(watch, certificate(90)) == []
    # Its own end is told in its time, all thresholds again.
    assert told(watch, certificate(90), after=80)
    assert told(watch, certificate(90), after=90)


def test_the_present_is_the_default() -> None:
    watch = CertificateWatch()
    old = Certificate("x", (), datetime(2020, 1, 1, tzinfo=UTC), datetime(2020, 2, 1, tzinfo=UTC))
    (said,) = watch.warnings([old])
    assert "has expired on 2020-02-01" in said


# -- the files -------------------------------------------------------------------------------------


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "server.pem"
    path.write_bytes(b"one")
    return path


def seen(*files: Path) -> CertificateWatch:
    watch = CertificateWatch()
    watch.see([str(one) for one in files])
    return watch


def changed(watch: CertificateWatch, *files: Path) -> bool:
    return watch.changed([str(one) for one in files])


def test_a_file_that_stays_has_not_changed(file: Path) -> None:
    watch = seen(file)
    for _ in range(3):
        assert not changed(watch, file)


def test_a_file_that_is_written_has_changed_once(file: Path) -> None:
    watch = seen(file)
    file.write_bytes(b"another")
    assert changed(watch, file)
    assert not changed(watch, file)


def test_a_file_that_is_replaced(file: Path) -> None:
    watch = seen(file)
    fresh = file.with_name("fresh")
    fresh.write_bytes(b"two")
    os.replace(fresh, file)
    assert changed(watch, file)
    assert not changed(watch, file)


def test_a_file_that_is_written_over_with_its_old_size_and_time(file: Path) -> None:
    """As `cp -p` and `rsync -t --inplace` do with a file of the same size."""
    before = file.stat()
    watch = seen(file)
    file.write_bytes(b"two")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = file.stat()
    assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert changed(watch, file)
    assert not changed(watch, file)


def test_a_link_that_points_elsewhere(tmp_path: Path, file: Path) -> None:
    """As certbot's live folder, and as Kubernetes mounts secrets."""
    other = tmp_path / "other.pem"
    shutil.copy2(file, other)
    link = tmp_path / "live.pem"
    link.symlink_to(file)
    watch = seen(link)
    assert not changed(watch, link)
    fresh = tmp_path / "fresh"
    fresh.symlink_to(other)
    os.replace(fresh, link)
    assert changed(watch, link)
    assert not changed(watch, link)
    # And what the link points to.
    other.write_bytes(b"two")
    assert changed(watch, link)


def test_a_folder_in_which_a_file_appears(tmp_path: Path, file: Path) -> None:
    watch = seen(tmp_path, file)
    assert not changed(watch, tmp_path, file)
    (tmp_path / "another.pem").write_bytes(b"x")
    assert changed(watch, tmp_path, file)


def test_a_file_that_is_gone_for_a_moment(file: Path) -> None:
    """Whatever is said of the moment, the file that comes back is seen."""
    watch = seen(file)
    file.unlink()
    changed(watch, file)
    assert not changed(watch, file), "gone is gone, once"
    file.write_bytes(b"two")
    assert changed(watch, file)
    assert not changed(watch, file)


def test_one_of_several(tmp_path: Path, file: Path) -> None:
    other = tmp_path / "key.pem"
    other.write_bytes(b"k")
    watch = seen(file, other)
    other.write_bytes(b"K")
    assert changed(watch, file, other)
    assert not changed(watch, file, other)


def test_a_file_that_changes_while_it_is_read(file: Path) -> None:
    before = file_identity(str(file))
    file.write_bytes(b"another")
    watch = CertificateWatch()
    watch.know([before])
    assert changed(watch, file)
    assert not changed(watch, file)


def test_no_files() -> None:
    watch = CertificateWatch()
    assert not watch.changed([])
    watch.see([])
    assert not watch.changed([])
