"""A socket's address, as people write it."""

import os

__all__ = ["format_address"]


def format_address(sockaddr: object) -> str:
    """A socket's address as people write it; used in logs and errors, so it never raises.

    Args:
        sockaddr: what `getsockname`, `getpeername` or `accept` gave.

    Returns:
        `127.0.0.1:7000`, `[::1]:7000`, `[fe80::1%2]:7000` (a link-local address with the number of
        its interface), or the path of a Unix socket (`@name` if it is abstract, `unnamed` if it has
        none). Anything else comes as Python prints it.
    """
    match sockaddr:
        case (str(host), int(port)):
            return f"{host}:{port}"
        case (str(host), int(port), int(), int(scope)):
            zone = f"%{scope}" if scope and "%" not in host else ""
            return f"[{host}{zone}]:{port}"
        case "" | b"":
            return "unnamed"
        case str(path) | bytes(path):
            name = os.fsdecode(path)
            return f"@{name[1:]}" if name.startswith("\0") else name
        case _:
            return str(sockaddr)
