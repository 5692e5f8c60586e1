"""Configs in a module whose annotations are text, for `test_gconfig`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ginsfsm import GObj, param
from ginsfsm.gconfig import Config


class Server(GObj):
    class config(GObj.config):
        port: int = param(7000, "port")
        ports: tuple[int, ...] = param((1, 2), "ports")
        path: Path | None = param(None, "a module's own name")


def local_config() -> type[Any]:
    class Device:
        pass

    class config(Config):
        device: Device | None = param(None, "a local name")

    return config


def nested_config() -> type[Any]:
    class Inner(GObj):
        class config(GObj.config):
            path: Path | None = param(None, "a module's own name, two bodies down")

    return Inner.config
