"""What comes over a connection and nobody takes: frames where bytes are awaited, or the reverse.

A connection tells its bytes either as they come (`EV_RX_DATA`) or as frames (`EV_RX_FRAME`), never
both; the parameter `framing` decides. An owner that has rows for the other one alone would lose
everything, and nothing would say so.
"""

from __future__ import annotations

from collections.abc import Container

from ginsfsm.event import Event
from ginsfsm.sock.events import EV_RX_DATA, EV_RX_FRAME

__all__ = ["unheard"]


def unheard(accepted: Container[type[Event]], framing: object) -> str | None:
    """What is wrong with a framing for somebody who takes these events.

    Args:
        accepted: the events of all states of the owner.
        framing: the parameter; `""` is none.

    Returns:
        The rest of a sentence that begins with who it is; None where what comes is taken, or
        nothing of what is received: then it is not wanted.
    """
    comes, other = (EV_RX_FRAME, EV_RX_DATA) if framing else (EV_RX_DATA, EV_RX_FRAME)
    if comes in accepted or other not in accepted:
        return None
    if framing:
        return (
            "has EV_RX_DATA, but with a framing EV_RX_FRAME comes instead, and would be lost; "
            "take EV_RX_FRAME, or give no framing"
        )
    return (
        "has EV_RX_FRAME, but there is no framing, so EV_RX_DATA comes instead, and would be "
        'lost; give framing="lines" or another one, or take EV_RX_DATA'
    )
