"""Networks: a set of address ranges, asked for each connection whether a peer is in one of them.

A list of thousands must cost a new connection no more than a list of ten. So there is no walk from
network to network: the networks of one prefix length are a set, and a peer's address, cut to that
length, is in it or not. That is at most one look-up for each length that occurs, 33 of IPv4 or 129
of IPv6, and in practice three or four.

An IPv4 address may come in the clothes of IPv6, `::ffff:192.0.2.1`, where one socket serves both.
It is undressed here, in peers and in networks, so that it is the same address whatever socket it
came through. Therefore `::/0` is every address of IPv6 and none of IPv4.
"""

import ipaddress
import re
import socket
from collections.abc import Iterable
from typing import Final, NamedTuple

from ginsfsm.net.words import cut, given

__all__ = ["Network", "Networks", "packed_address", "read_networks"]

_MAPPED: Final = bytes(10) + b"\xff\xff"
"""How an IPv4 address in the form of IPv6 begins. RFC 4291, section 2.5.5.2."""

_TOLD: Final = 10
"""Faults of one list that are told each; who gives a wrong file may have thousands."""

_EXAMPLES: Final = "'192.0.2.7', '10.0.0.0/8' or '2001:db8::/32'"


class Network(NamedTuple):
    """A range of addresses.

    Attributes:
        address: its first address, 4 bytes of IPv4 or 16 of IPv6.
        length: how many leading bits all its addresses have in common.
    """

    address: bytes
    length: int


def packed_address(host: str) -> bytes:
    """The 4 or 16 bytes of an address; IPv4 in the form of IPv6 becomes IPv4.

    Args:
        host: as `accept` gives it; the zone of a link-local address (`%eth0`) does not matter.

    Raises:
        ValueError: it is no address, but for instance a name.
    """
    try:
        if ":" not in host:
            return socket.inet_pton(socket.AF_INET, host)
        address = socket.inet_pton(socket.AF_INET6, host.partition("%")[0])
    except (OSError, ValueError):
        raise ValueError(
            f"expected the address of a peer, such as '192.0.2.7' or '2001:db8::7', got "
            f"{given(host)}; a name has to be resolved first"
        ) from None
    return address[12:] if address.startswith(_MAPPED) else address


class Networks:
    """A set of networks of both families; `address in networks` is what it is for.

    Args:
        networks: what `read_networks` gave.
    """

    __slots__ = ("_ipv4", "_ipv6")

    def __init__(self, networks: Iterable[Network] = ()) -> None:
        # By family: how many bits to cut off, and what remains of the networks of that length.
        tables: dict[int, dict[int, set[int]]] = {4: {}, 16: {}}
        for address, length in networks:
            size = len(address)
            host_bits = size * 8 - length
            tables[size].setdefault(host_bits, set()).add(int.from_bytes(address) >> host_bits)
        self._ipv4 = list(tables[4].items())
        self._ipv6 = list(tables[16].items())

    def __contains__(self, address: bytes) -> bool:
        """Whether a packed address (see `packed_address`) is in one of them."""
        number = int.from_bytes(address)
        for host_bits, prefixes in self._ipv4 if len(address) == 4 else self._ipv6:
            if number >> host_bits in prefixes:
                return True
        return False

    def covers(self, network: Network) -> bool:
        """Whether the whole of a network is in one of them."""
        address, length = network
        number = int.from_bytes(address)
        spare = len(address) * 8 - length
        return any(
            host_bits >= spare and number >> host_bits in prefixes
            for host_bits, prefixes in (self._ipv4 if len(address) == 4 else self._ipv6)
        )

    def __bool__(self) -> bool:
        """Whether there is any."""
        return bool(self._ipv4 or self._ipv6)

    def __len__(self) -> int:
        """How many there are, those given twice counted once."""
        return sum(len(prefixes) for _, prefixes in (*self._ipv4, *self._ipv6))


def read_networks(name: str, texts: object) -> tuple[list[Network], list[str]]:
    """Read a list of networks, as people write them.

    Args:
        name: of the parameter; each fault begins with it.
        texts: addresses and networks of both families, in a list or a tuple.

    Returns:
        The networks that could be read, and a sentence for each text that is none.
    """
    if not isinstance(texts, (list, tuple)):
        tail = f"; write [{cut(repr(texts))}]" if isinstance(texts, str) and texts else ""
        return [], [f"{name}: expected networks in a list, got {given(texts)}{tail}"]
    networks: list[Network] = []
    faults: list[str] = []
    for text in texts:
        network = _read(text) if isinstance(text, str) else None
        if network is not None:
            networks.append(network)
        else:
            faults.append(f"{name}: {_fault(text)}")
    if len(faults) > _TOLD:
        faults[_TOLD:] = [f"{name}: {len(faults) - _TOLD} more are no networks"]
    return networks, faults


def _read(text: str) -> Network | None:
    """The network of a text, or None where there is anything about it to explain."""
    host, slash, prefix = text.partition("/")
    try:
        address = socket.inet_pton(socket.AF_INET6 if ":" in host else socket.AF_INET, host)
    except (OSError, ValueError):
        return None
    size = len(address) * 8
    if not slash:
        length = size
    elif prefix.isascii() and prefix.isdigit() and len(prefix) <= 3:
        length = int(prefix)
    else:
        # A mask instead of a length, as old systems write it, or nothing that makes sense.
        try:
            length = ipaddress.ip_network(text).prefixlen
        except ValueError:
            return None
    if length > size or int.from_bytes(address) & ((1 << (size - length)) - 1):
        return None
    if length >= 96 and address.startswith(_MAPPED):
        return Network(address[12:], length - 96)
    return Network(address, length)


def _fault(text: object) -> str:
    """Why a text is no network, and what was probably meant."""
    if not isinstance(text, str):
        return f"expected the text of a network, such as {_EXAMPLES}, got {given(text)}"
    what = f"{cut(repr(text))} is no network"
    host, _, prefix = text.partition("/")
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        address = None
    if address is None:
        meant = _meant(text)
        if meant is not None:
            return f"{what}; did you mean '{meant}'?"
        if text.strip() in ("", "*", "all", "any"):
            return f"{what}: everybody is '0.0.0.0/0' and '::/0', or for allow an empty list"
        if re.fullmatch(r"[\w-]+(\.[\w-]+)*\.?", text) and re.search(r"[^\W\d]", text):
            return f"{what}: a host name says nothing about an address; give its addresses"
        return f"{what}: expected an address or a network, such as {_EXAMPLES}"
    if isinstance(address, ipaddress.IPv6Address) and address.scope_id is not None:
        return f"{what}: leave out the zone, '%{address.scope_id}'"
    try:
        network = ipaddress.ip_network(text, strict=False)
    except ValueError:
        meant = _meant(text)
        if meant is not None:
            return f"{what}; did you mean '{meant}'?"
        most = address.max_prefixlen
        prefix = cut(repr(prefix))
        return f"{what}: after the slash expected a number from 0 to {most}, got {prefix}"
    return (
        f"{what}: it has bits set after the first {network.prefixlen}; for the network write "
        f"'{network}', for the one address '{address}'"
    )


def _meant(text: str) -> str | None:
    """A network that a text comes near to: one with blanks, brackets, a port, a star, or cut."""
    host, slash, prefix = text.strip().partition("/")
    host = host.strip()
    bracketed = re.fullmatch(r"\[([^]]*)\](?::\d+)?", host)
    if bracketed:
        host = bracketed[1]
    elif host.count(":") == 1:
        host = host.partition(":")[0]
    elif re.fullmatch(r"\d+(\.\d+){0,3}(\.\*)*\.?", host):
        numbers = re.findall(r"\d+", host)
        if not slash and len(numbers) < 4:
            slash, prefix = "/", str(8 * len(numbers))
        host = ".".join([*numbers, "0", "0", "0"][:4])
    try:
        network = ipaddress.ip_network(f"{host}{slash}{prefix.strip()}", strict=False)
    except ValueError:
        return None
    return str(network if slash and prefix else network.network_address)
