"""Echo with a raw uvloop ``Protocol``: the peer that the ratios are taken against."""

import asyncio
from typing import Any

import uvloop


class Echo(asyncio.Protocol):
    """Writes back what it reads."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Not asyncio.Transport: uvloop's transports derive from no class of asyncio.
        stream: Any = transport
        self.write = stream.write

    def data_received(self, data: bytes) -> None:
        self.write(data)


async def main() -> None:
    """Serve until the process is ended. uvloop sets TCP_NODELAY on its own."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Echo, "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(main())
