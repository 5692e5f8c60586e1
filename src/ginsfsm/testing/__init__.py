"""Drive a machine without sockets, with a clock that tests move by hand.

A test makes a `ManualGAplic`, puts a `StandIn` where the owner and the neighbours of the machine
would be, sends events, moves the time, and looks at what came::

    def test_the_door_locks_itself() -> None:
        with ManualGAplic() as app:
            owner = app.stand_in("owner", Door)            # hears every output event of Door
            door = app.create_gobj("door", Door, owner, seconds_open=10)

            owner.send_event(door, EV_COIN())
            assert door.state == "ST_UNLOCKED"
            app.advance(10)
            assert door.state == "ST_LOCKED"
            assert owner.received == [EV_OPENED(), EV_CLOSED()]

What has a socket is replaced, and a stand-in takes the part of a connection::

    with ManualGAplic() as app:
        app.replace(GServerSock)
        echo = app.create_gobj("echo", Echo, app)
        client = app.stand_in("client", EV_SEND_DATA, EV_DROP)
        client.send_event(echo, EV_RX_DATA(b"hello"))
        app.record.sent(EV_SEND_DATA(b"hello"), to=client)

Nothing here needs pytest; it can stand in any test framework.
"""

from ginsfsm.testing.clock import ManualClock
from ginsfsm.testing.gaplic import ManualGAplic
from ginsfsm.testing.record import Record
from ginsfsm.testing.stand_in import StandIn

__all__ = ["ManualClock", "ManualGAplic", "Record", "StandIn"]
