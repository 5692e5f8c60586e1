import pytest
from hypothesis import given
from hypothesis import strategies as st

from ginsfsm.net.crc32c import crc32c


def slowly(data: bytes) -> int:
    """Bit by bit, as the polynomial is written: not reflected, without a table."""
    crc = 0xFFFFFFFF
    for byte in data:
        for bit in range(8):
            top = crc >> 31 ^ (byte >> bit & 1)
            crc = (crc << 1 & 0xFFFFFFFF) ^ (0x1EDC6F41 if top else 0)
    return int(f"{crc ^ 0xFFFFFFFF:032b}"[::-1], 2)


@pytest.mark.parametrize(
    ("data", "made"),
    [
        (b"", 0),
        (b"123456789", 0xE3069283),
        # RFC 3720, B.4, which shows the bytes in the order in which iSCSI sends them.
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(range(31, -1, -1)), 0x113FDB5C),
    ],
)
def test_known_sums(data: bytes, made: int) -> None:
    assert crc32c(data) == made


@given(st.binary(max_size=200))
def test_any_bytes(data: bytes) -> None:
    assert crc32c(data) == slowly(data)
