"""Echo with a Twisted ``Protocol``, on the epoll reactor."""

from typing import Any

from twisted.internet import epollreactor
from twisted.internet.protocol import Factory, Protocol


class Echo(Protocol):  # type: ignore[misc,unused-ignore]
    """Writes back what it reads."""

    transport: Any

    def connectionMade(self) -> None:
        self.transport.setTcpNoDelay(True)

    def dataReceived(self, data: bytes) -> None:
        self.transport.write(data)


def main() -> None:
    """Serve until the process is ended."""
    install: Any = epollreactor.install
    install()
    # Imported only now: the first import decides which reactor it is.
    from twisted.internet import reactor as installed

    reactor: Any = installed
    factory = Factory.forProtocol(Echo)
    factory.noisy = False
    port = reactor.listenTCP(0, factory, backlog=1024, interface="127.0.0.1")
    print(port.getHost().port, flush=True)
    reactor.run()


if __name__ == "__main__":
    main()
