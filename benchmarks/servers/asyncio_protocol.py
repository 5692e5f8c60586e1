"""Echo with a raw asyncio ``Protocol``, on the loop of the standard library.

asyncio reads into a new block of 256 KiB each time. glibc may map and unmap such a block for
every read, which can treble the cost. ``--max-size 65536`` stays under that threshold.
"""

import argparse
import asyncio
from typing import Any


class Echo(asyncio.Protocol):
    """Writes back what it reads."""

    max_size = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        selector_transport: Any = transport
        if self.max_size:
            selector_transport.max_size = self.max_size
        self.write = selector_transport.write

    def data_received(self, data: bytes) -> None:
        self.write(data)


async def main() -> None:
    """Serve until the process is ended. asyncio sets TCP_NODELAY on its own."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Echo, "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--max-size", type=int, default=0, help="bytes per read; 0: as shipped")
    Echo.max_size = parser.parse_args().max_size
    asyncio.run(main())
