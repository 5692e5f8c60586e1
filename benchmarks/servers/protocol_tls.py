"""Echo over TLS with a raw ``Protocol`` or ``BufferedProtocol``, on asyncio's loop or uvloop's.

``python protocol_tls.py [--uvloop] [--buffered] CERTIFICATE KEY``
"""

import argparse
import asyncio
import ssl
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


class BufferedEcho(asyncio.BufferedProtocol):
    """Has everything read into one buffer, and writes back from there.

    One buffer for all connections is as cheap as it gets, and enough here: both loops encrypt
    what they are given before ``write`` returns. The loader would notice if they did not.
    """

    buffer = memoryview(bytearray(256 * 1024))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        stream: Any = transport
        self.write = stream.write

    def get_buffer(self, sizehint: int) -> memoryview:
        return self.buffer

    def buffer_updated(self, nbytes: int) -> None:
        self.write(self.buffer[:nbytes])


async def main(buffered: bool, certificate: str, key: str) -> None:
    """Serve until the process is ended. Both loops set TCP_NODELAY on their own."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        BufferedEcho if buffered else Echo, "127.0.0.1", 0, backlog=1024, ssl=context
    )
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--uvloop", action="store_true", help="run on uvloop")
    parser.add_argument("--buffered", action="store_true", help="serve a BufferedProtocol")
    parser.add_argument("certificate", help="file with the certificate")
    parser.add_argument("key", help="file with its private key")
    options = parser.parse_args()
    run = uvloop.run if options.uvloop else asyncio.run
    run(main(options.buffered, options.certificate, options.key))
