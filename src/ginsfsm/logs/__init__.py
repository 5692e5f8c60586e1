"""What is logged, in which form, how much of it, and what happens when it cannot be written.

Everything goes through `logging`, to the logger "ginsfsm". Each record has structured fields in
`extra` beside its sentence (`fields`). `ginsfsm run` sets up one handler for the process::

    record -> KindLimit -> TextFormatter or JsonFormatter -> LogTarget -> stderr

A program of one's own configures `logging` as it likes, with these parts or without them.
"""

from ginsfsm.logs.fields import FIELDS, about
from ginsfsm.logs.json_lines import JsonFormatter
from ginsfsm.logs.kind_limit import KindLimit
from ginsfsm.logs.plain_text import TextFormatter
from ginsfsm.logs.setting_up import FORMS, LIMIT, are_json, log_handler, set_up
from ginsfsm.logs.target import LogTarget

__all__ = [
    "FIELDS",
    "FORMS",
    "LIMIT",
    "JsonFormatter",
    "KindLimit",
    "LogTarget",
    "TextFormatter",
    "about",
    "are_json",
    "log_handler",
    "set_up",
]
