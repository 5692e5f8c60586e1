"""Parameters: declared, validated, shown in a table; and settings from a file."""

import copy
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import pytest

import gconfig_with_text_annotations as text_annotations
from ginsfsm import Event, GAplic, GConfigError, GObj, param
from ginsfsm.gconfig import Config, Text, statistic
from ginsfsm.settings import load_settings, settings_from


class Device:
    """A type that msgspec knows nothing of."""


class EV_TICK(Event):
    pass


class Server(GObj):
    class config(GObj.config):
        host: str = param("127.0.0.1", "address")
        port: int = param(0, "port", ge=0, le=65535)
        ports: tuple[int, ...] = param((), "ports to try")
        multi: bool = param(False, "try them all")
        options: dict[str, object] = param({}, "TLS")
        idle: float = param(60.0, "seconds of silence", ge=0)
        limit: int | None = param(None, "most connections", ge=1)
        mode: str = param("fast", "how", choices=("fast", "safe"))
        frame: bytes = param(b"\r\n", "end of a frame")
        subscriber: GObj | None = param(None, "who listens")
        kind: type[Event] = param(EV_TICK, "what to send")
        n_gsocks: int = statistic(0, "open now")


def build(**values: object) -> Server.config:
    return Server.config._build("app/server (Server)", ("", values))


def build_text(**values: str) -> Server.config:
    return build(**{name: Text(value) for name, value in values.items()})


def fault_of(work: Callable[[], object]) -> str:
    with pytest.raises(GConfigError) as caught:
        work()
    return str(caught.value)


# Declaring


def test_the_default_is_read_from_the_class_and_from_a_config() -> None:
    assert Server.config.port == build().port == 0
    assert Server.config.idle == build().idle == 60.0


def test_table_lists_name_type_default_and_description_in_order() -> None:
    assert Server.config.table() == [
        ("host", "str", "127.0.0.1", "address"),
        ("port", "int", 0, "port"),
        ("ports", "tuple", (), "ports to try"),
        ("multi", "bool", False, "try them all"),
        ("options", "dict", {}, "TLS"),
        ("idle", "float", 60.0, "seconds of silence"),
        ("limit", "int | None", None, "most connections"),
        ("mode", "str", "fast", "how"),
        ("frame", "bytes", b"\r\n", "end of a frame"),
        ("subscriber", "None", None, "who listens"),
        ("kind", "type[Event]", EV_TICK, "what to send"),
        ("n_gsocks", "int", 0, "open now"),
    ]


def test_table_shows_literals_and_bare_containers() -> None:
    class config(Config):
        level: Literal["low", "high"] = param("low", "level")
        names: tuple = param((), "names")  # type: ignore[type-arg]

    assert [row[1] for row in config.table()] == ["'low' | 'high'", "tuple"]


def test_a_derived_config_keeps_the_order_and_adds_its_own() -> None:
    class config(Server.config):
        extra: int = param(1, "one more")

    assert [row[0] for row in config.table()] == [
        *[row[0] for row in Server.config.table()],
        "extra",
    ]


def test_a_redefined_parameter_keeps_its_place() -> None:
    class config(Server.config):
        port: int = param(7000, "another port", ge=7000)

    assert config.table()[1] == ("port", "int", 7000, "another port")
    assert len(config.table()) == len(Server.config.table())
    assert "7000 or more" in fault_of(lambda: config._build("x", ("", {"port": 1})))
    assert Server.config.port == 0


def test_two_bases_keep_their_order_and_the_first_one_counts() -> None:
    class First(Config):
        a: int = param(1, "first a")
        both: int = param(1, "of first")

    class Second(Config):
        b: int = param(2, "second b")
        both: int = param(2, "of second")

    class config(First, Second):
        pass

    assert [row[0] for row in config.table()] == ["a", "both", "b"]
    assert config.table()[1][2] == config.both == config._build("x").both == 1


def test_with_a_common_base_table_and_attribute_say_the_same() -> None:
    class Base(Config):
        port: int = param(1, "of base")

    class Left(Base):
        pass

    class Right(Base):
        port: int = param(2, "of right")

    class config(Left, Right):
        pass

    assert config.port == 2
    assert config.table() == [("port", "int", 2, "of right")]


def test_types_may_be_written_with_future_annotations() -> None:
    assert text_annotations.Server.config.table() == [
        ("port", "int", 7000, "port"),
        ("ports", "tuple", (1, 2), "ports"),
        ("path", "None", None, "a module's own name"),
    ]


def test_types_may_be_local_with_future_annotations() -> None:
    config = text_annotations.local_config()
    assert config._build("x", ("", {"device": None})).device is None
    assert "expected Device | None" in fault_of(lambda: config._build("x", ("", {"device": 1})))


def test_types_may_be_local_without_future_annotations() -> None:
    class Local:
        pass

    class config(Config):
        local: Local | None = param(None, "a local type")

    local = Local()
    assert config._build("x", ("", {"local": local})).local is local


def test_names_of_callers_do_not_shadow_the_names_of_the_module() -> None:
    from pathlib import Path as RealPath

    Path = int  # noqa: F841
    assert text_annotations.nested_config()._params["path"].type == RealPath | None


def test_a_default_is_validated_when_the_class_is_created() -> None:
    def declare() -> None:
        class config(Config):
            port: int = param("7000", "port")  # type: ignore[assignment]

    assert fault_of(declare).endswith("config: port: its default: expected int, got '7000' (str)")


def test_a_default_must_be_in_the_range_and_among_the_choices() -> None:
    def declare() -> None:
        class config(Config):
            port: int = param(-1, "port", ge=0, le=9)
            mode: str = param("slow", "mode", choices=("fast", "safe"))

    report = fault_of(declare)
    assert "port: its default: expected int from 0 to 9, got -1 (int)" in report
    assert "mode: its default: expected one of 'fast', 'safe', got 'slow' (str)" in report


def test_every_fault_of_a_declaration_is_reported_at_once() -> None:
    def declare() -> None:
        class config(Config):
            port = param(7000, "no type")
            host: str = "localhost"
            name: str = param("x", "reserved")
            _hidden: int = param(1, "no public name")
            empty: int = param(1, " ")
            both: bytes | str = param(b"", "no such union")
            word: str = param("x", "a limit on text", ge=1)
            limit: int = param(1, "a limit that is none", ge="0")  # type: ignore[arg-type]
            unknown: "Nowhere" = param(None, "x")  # type: ignore[name-defined]  # noqa: F821

    report = fault_of(declare)
    assert "config: 9 faults\n" in report
    for line in (
        "port: no type; write `port: int = param(...)`",
        "host: write `host: TYPE = param(default, 'description')`",
        "name: create_gobj keeps this word for itself; use another name",
        "_hidden: a parameter's name cannot begin with '_'; use another name",
        "empty: give a description, one sentence for the documentation",
        "both: the type bytes | str cannot be validated: ",
        "limit: ge and le must be numbers, got '0' and None",
        "word: ge and le limit a number; its type is str",
        "unknown: the type 'Nowhere' cannot be found here: ",
    ):
        assert f"\n  {line}" in report


def test_a_parameter_of_the_base_is_not_overridden_by_a_plain_value() -> None:
    def declare() -> None:
        class config(Server.config):
            port = 7000

    assert "port: a parameter of the base; write `port: TYPE = param(" in fault_of(declare)


# Values from code: strict


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("host", "::1"),
        ("port", 65535),
        ("ports", (1, 2)),
        ("multi", True),
        ("options", {"certfile": "a.pem"}),
        ("idle", 0.0),
        ("limit", None),
        ("limit", 3),
        ("mode", "safe"),
        ("frame", b"\0"),
        ("subscriber", None),
        ("kind", EV_TICK),
    ],
)
def test_a_fitting_value_is_taken(name: str, value: object) -> None:
    assert getattr(build(**{name: value}), name) == value


@pytest.mark.parametrize(
    ("name", "value", "taken"),
    [
        ("ports", [1, 2], (1, 2)),
        ("ports", range(3), (0, 1, 2)),
        ("idle", 5, 5.0),
        ("frame", bytearray(b"x"), b"x"),
    ],
)
def test_a_value_that_means_the_same_is_converted(name: str, value: object, taken: object) -> None:
    got = getattr(build(**{name: value}), name)
    assert got == taken
    assert type(got) is type(taken)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("host", 7, "host: expected str, got 7 (int)"),
        ("host", b"x", "host: expected str, got b'x' (bytes)"),
        ("host", None, "host: expected str, got None"),
        ("port", "7000", "port: expected int from 0 to 65535, got '7000' (str)"),
        ("port", True, "port: expected int from 0 to 65535, got True (bool)"),
        ("port", 1.0, "port: expected int from 0 to 65535, got 1.0 (float)"),
        ("port", -1, "port: expected int from 0 to 65535, got -1 (int)"),
        ("port", 65536, "port: expected int from 0 to 65535, got 65536 (int)"),
        (
            "ports",
            (1, "2"),
            (
                "ports: expected tuple of int, got (1, '2') (tuple) "
                "(wrong: the second value, '2' (str))"
            ),
        ),
        (
            "ports",
            [*range(8), None],
            (
                "ports: expected tuple of int, got [0, 1, 2, 3, 4, 5, 6, 7, None] (list) "
                "(wrong: value number 9, None)"
            ),
        ),
        ("ports", 7000, "ports: expected tuple of int, got 7000 (int)"),
        ("multi", 1, "multi: expected bool, got 1 (int)"),
        ("multi", "yes", "multi: expected bool, got 'yes' (str)"),
        ("options", [1], "options: expected dict of str and object, got a list"),
        ("idle", -0.5, "idle: expected float, 0 or more, got -0.5 (float)"),
        ("idle", math.nan, "idle: expected float, 0 or more, got nan (float)"),
        ("limit", 0, "limit: expected int | None, 1 or more, got 0 (int)"),
        ("mode", "Fast", "mode: expected one of 'fast', 'safe', got 'Fast' (str)"),
        ("frame", "abcd", "frame: expected bytes, got 'abcd' (str)"),
        ("subscriber", Device(), "subscriber: expected a gobj or None, got a Device"),
        ("kind", int, "kind: expected type[Event], got the class int"),
        ("kind", EV_TICK(), "kind: expected type[Event], got an EV_TICK"),
    ],
)
def test_a_value_that_does_not_fit_is_refused(name: str, value: object, said: str) -> None:
    assert fault_of(lambda: build(**{name: value})) == f"app/server (Server): {said}"


def test_a_str_is_never_taken_for_bytes_within_a_container_either() -> None:
    class config(Config):
        frames: tuple[bytes, ...] = param((), "frames")

    assert "wrong: the first value, 'abcd' (str)" in fault_of(
        lambda: config._build("x", ("", {"frames": ["abcd"]}))
    )
    fault_of(lambda: config._build("x", ("", {"frames": Text('["abcd"]')})))


def test_an_unknown_parameter_is_reported_with_the_nearest_one() -> None:
    assert "prot: unknown parameter; did you mean 'port'?" in fault_of(lambda: build(prot=1))


def test_an_unknown_parameter_that_resembles_none_lists_the_known_ones() -> None:
    assert "xyzzy: unknown parameter; known: host, port, " in fault_of(lambda: build(xyzzy=1))


def test_a_gclass_without_parameters_says_so() -> None:
    said = fault_of(lambda: GObj.config._build("x", ("", {"port": 1})))
    assert said == "x: port: unknown parameter; there are none"


def test_every_fault_is_listed_in_one_error() -> None:
    said = fault_of(lambda: build(prot=1, port="x", host=1, idle=-1.0))
    assert said.splitlines() == [
        "app/server (Server): 4 faults",
        "  prot: unknown parameter; did you mean 'port'?",
        "  port: expected int from 0 to 65535, got 'x' (str)",
        "  host: expected str, got 1 (int)",
        "  idle: expected float, 0 or more, got -1.0 (float)",
    ]


def test_create_gobj_makes_nothing_when_a_parameter_is_wrong() -> None:
    app = GAplic("app")
    said = fault_of(lambda: app.create_gobj("server", Server, app, port=-1, hots="x"))
    assert said.startswith("app/server (Server): 2 faults\n")
    assert not app.children


def test_later_sources_win_and_their_faults_say_where_they_come_from() -> None:
    config = Server.config._build("x", ("", {"port": 1, "idle": 1.0}), ("settings", {"port": 2}))
    assert (config.port, config.idle) == (2, 1.0)
    said = fault_of(lambda: Server.config._build("x", ("", {}), ("settings", {"port": "2"})))
    assert said.endswith("got '2' (str) (from settings)")


def test_a_name_that_is_no_text_is_an_unknown_parameter() -> None:
    said = fault_of(lambda: Server.config._build("x", ("settings", {7: 1})))  # type: ignore[dict-item]
    assert "7: unknown parameter" in said


# Values from a command line: lenient


@pytest.mark.parametrize(
    ("name", "text", "taken"),
    [
        ("host", "7", "7"),
        ("host", "a, b", "a, b"),
        ("host", "", ""),
        ("port", "7001", 7001),
        ("ports", "7000,7001", (7000, 7001)),
        ("ports", "7000, 7001", (7000, 7001)),
        ("ports", "[7000, 7001]", (7000, 7001)),
        ("ports", "7000", (7000,)),
        ("ports", "", ()),
        ("options", '{"certfile": "a.pem"}', {"certfile": "a.pem"}),
        ("idle", "1.5", 1.5),
        ("idle", "2", 2.0),
        ("limit", "3", 3),
        ("limit", "null", None),
        ("limit", "None", None),
        ("mode", "safe", "safe"),
        ("frame", "abcd", b"abcd"),
        *[("multi", yes, True) for yes in ("yes", "Yes", "on", "true", "True", "1")],
        *[("multi", no, False) for no in ("no", "off", "OFF", "false", "FALSE", "0")],
    ],
)
def test_text_is_converted_to_the_type_of_the_parameter(
    name: str, text: str, taken: object
) -> None:
    got = getattr(build_text(**{name: text}), name)
    assert got == taken
    assert type(got) is type(taken)


def test_text_is_converted_to_an_optional_bool() -> None:
    class config(Config):
        verify: bool | None = param(None, "verify")

    for text, taken in (("yes", True), ("off", False), ("none", None), ("0", False)):
        assert config._build("x", ("", {"verify": Text(text)})).verify is taken


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("port", "x", "port: expected int from 0 to 65535, got the text 'x'"),
        ("port", "70000", "port: expected int from 0 to 65535, got the text '70000'"),
        ("port", "1.5", "port: expected int from 0 to 65535, got the text '1.5'"),
        ("ports", "1,x", "ports: expected tuple of int, got the text '1,x'"),
        ("idle", "nan", "idle: expected float, 0 or more, got the text 'nan'"),
        ("multi", "maybe", "multi: expected bool, got the text 'maybe'"),
        ("mode", "slow", "mode: expected one of 'fast', 'safe', got the text 'slow'"),
        ("subscriber", "app", "subscriber: expected a gobj or None, got the text 'app'"),
    ],
)
def test_text_that_does_not_fit_is_refused(name: str, text: str, said: str) -> None:
    assert fault_of(lambda: build_text(**{name: text})) == f"app/server (Server): {said}"


def test_a_long_text_is_cut_in_an_error() -> None:
    assert len(fault_of(lambda: build_text(port="x" * 10_000))) < 200
    assert len(fault_of(lambda: build(port="x" * 10_000))) < 200
    assert "..." in fault_of(lambda: build(ports=("x",) * 1000))


def test_deeply_nested_json_is_refused_as_any_wrong_text() -> None:
    assert "expected tuple of int" in fault_of(lambda: build_text(ports="[" * 100_000))


# What an error must not show


@pytest.mark.parametrize(
    "value",
    [
        {"password": 7},
        [{"password": "tiger"}],
        Text('{"password": "tiger"'),
        "tiger",
        {"password": {"a": "tiger"}},
    ],
)
def test_no_value_that_belongs_into_a_mapping_is_shown(value: object) -> None:
    class config(Config):
        options: dict[str, str] = param({}, "TLS")

    assert "tiger" not in fault_of(lambda: config._build("x", ("", {"options": value})))


def test_a_mapping_given_for_another_type_is_not_shown() -> None:
    assert "tiger" not in fault_of(lambda: build(host={"password": "tiger"}))
    assert "tiger" not in fault_of(lambda: build(ports=({"password": "tiger"},)))


def test_repr_of_a_config_shows_no_values() -> None:
    assert repr(build(options={"password": "tiger"})) == "<config of 12 parameters>"


# Reading and changing


def test_assignment_and_deletion_are_refused_and_say_what_to_do() -> None:
    config = build(port=1)
    with pytest.raises(
        GConfigError, match=r"config\.port cannot be assigned.*write_parameters\(port="
    ):
        config.port = 2
    with pytest.raises(GConfigError, match=r"config\.port cannot be deleted"):
        del config.port
    assert config.port == 1


def test_a_mutable_default_is_not_shared() -> None:
    one, other = build(), build()
    one.options["certfile"] = "a.pem"
    assert other.options == Server.config.options == {}


def test_a_mutable_value_is_copied_from_the_caller() -> None:
    given = {"certfile": "a.pem"}
    config = build(options=given)
    given["certfile"] = "b.pem"
    assert config.options == {"certfile": "a.pem"}


def test_rewriting_makes_a_copy() -> None:
    before = build(port=1, idle=5.0)
    after = before._rewritten("x", {"port": 2})
    assert (before.port, before.idle) == (1, 5.0)
    assert (after.port, after.idle) == (2, 5.0)


def test_write_parameters_changes_all_or_nothing() -> None:
    app = GAplic("app")
    server = app.create_gobj("server", Server, app, port=1)
    with pytest.raises(GConfigError, match="app/server: idle: expected float"):
        server.write_parameters(port=2, idle=-1.0)
    assert server.config.port == 1
    server.write_parameters(port=2, idle=1.0)
    assert (server.config.port, server.config.idle) == (2, 1.0)


def test_a_config_keeps_only_what_differs_from_its_defaults() -> None:
    assert set(vars(build(port=1))) == {"port", "options"}


# Statistics


def test_a_statistic_cannot_be_set() -> None:
    said = "n_gsocks: a statistic that the gobj keeps; it cannot be set"
    assert said in fault_of(lambda: build(n_gsocks=1))
    assert said in fault_of(lambda: build()._rewritten("x", {"n_gsocks": 1}))
    with pytest.raises(GConfigError, match="cannot be assigned"):
        build().n_gsocks = 1


def test_a_statistic_shows_its_default_until_it_has_a_figure() -> None:
    assert Server.config.n_gsocks == build().n_gsocks == 0


def test_a_statistic_shows_a_live_figure() -> None:
    ledger: dict[int, str] = {}
    config = build(port=1)
    config._keep_live("n_gsocks", ledger.__len__)
    ledger[1] = "a"
    assert config.n_gsocks == 1
    ledger.clear()
    assert config.n_gsocks == 0
    assert Server.config.n_gsocks == build().n_gsocks == 0


def test_a_statistic_is_still_live_in_a_rewritten_config() -> None:
    ledger = [1, 2]
    config = build()
    config._keep_live("n_gsocks", ledger.__len__)
    config = config._rewritten("x", {"port": 2})
    ledger.append(3)
    assert config.n_gsocks == 3


def test_a_statistic_is_inherited() -> None:
    class config(Server.config):
        pass

    made = config._build("x")
    made._keep_live("n_gsocks", lambda: 7)
    assert made.n_gsocks == 7
    assert config.table()[-1] == ("n_gsocks", "int", 0, "open now")


def test_a_value_that_the_gobj_found_out_is_read_like_any_other() -> None:
    config = build(port=0)
    config._keep("port", 40123)
    assert config.port == 40123


def test_a_config_can_be_copied() -> None:
    assert copy.copy(build(port=1)).port == 1


# Settings


def write(path: Path, text: str | bytes) -> Path:
    file = path / "settings.toml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return file


def test_settings_are_read_from_a_toml_file(tmp_path: Path) -> None:
    file = write(tmp_path, '[echo]\nport = 7001\nports = [1, 2]\n[Server]\nhost = "::"\n')
    wanted = {"echo": {"port": 7001, "ports": [1, 2]}, "Server": {"host": "::"}}
    assert load_settings(file) == load_settings(str(file)) == wanted


def test_a_flat_key_stands_for_a_table(tmp_path: Path) -> None:
    file = write(tmp_path, '"echo.port" = 7001\n[echo]\nhost = "::"\n')
    assert load_settings(file) == {"echo": {"port": 7001, "host": "::"}}
    assert settings_from({"a.b.port": 1}, "settings") == {"a.b": {"port": 1}}


def test_settings_do_not_change_the_mapping_that_they_come_from() -> None:
    given: dict[str, Any] = {"echo": {"port": 1}, "echo.host": "::"}
    settings_from(given, "settings")
    assert given == {"echo": {"port": 1}, "echo.host": "::"}


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    file = tmp_path / "none.toml"
    said = fault_of(lambda: load_settings(file))
    assert said == f"settings file {str(file)!r} cannot be read: No such file or directory"
    assert "cannot be read: Is a directory" in fault_of(lambda: load_settings(tmp_path))


@pytest.mark.parametrize("text", ["[echo\nport = 1", b"\xff\xfe", "port: 1"])
def test_a_file_that_is_no_toml_is_refused(tmp_path: Path, text: str | bytes) -> None:
    file = write(tmp_path, text)
    assert f"settings file {str(file)!r} is not valid TOML: " in fault_of(
        lambda: load_settings(file)
    )


@pytest.mark.parametrize("text", ["port = 7001", '".port" = 1', '"echo." = 1', "echo = 7001"])
def test_a_value_outside_of_a_table_is_refused(tmp_path: Path, text: str) -> None:
    said = fault_of(lambda: load_settings(write(tmp_path, text)))
    assert "expected a table of parameters under the name of a gobj or a gclass" in said
    assert said.endswith("such as [echo] with port = 7001, got an int")


def test_a_value_outside_of_a_table_is_not_shown() -> None:
    said = fault_of(lambda: settings_from({"password": "tiger"}, "settings"))
    assert said.startswith("settings: password: expected a table")
    assert "tiger" not in said


def test_a_name_of_settings_must_be_text() -> None:
    assert "7: expected a table" in fault_of(
        lambda: settings_from({7: {"port": 1}}, "settings")  # type: ignore[dict-item]
    )


def test_no_float_is_a_nan_also_without_limits() -> None:
    class Scale(GObj):
        class config(GObj.config):
            factor: float = param(1.0, "what to multiply with")
            offset: float | None = param(None, "what to add")

    for name, kind in ("factor", "float"), ("offset", "float | None"):
        with pytest.raises(GConfigError) as caught:
            Scale.config._build("app/scale", ("", {name: math.nan}))
        assert str(caught.value) == (
            f"app/scale: {name}: expected {kind} that is a number, got nan (float)"
        )
    assert Scale.config._build("app/scale", ("", {"factor": -math.inf})).factor == -math.inf


def test_what_settings_say_may_be_read_in_another_way() -> None:
    def read(said: object) -> object:
        if said == "dozen":
            return 12
        raise ValueError(f"expected 'dozen', got {said!r}")

    class Box(GObj):
        class config(GObj.config):
            size: int = param(1, "how many go in", le=12, from_settings=read)

    build = Box.config._build
    assert build("app/box", ("the settings", {"size": "dozen"})).size == 12
    assert build("app/box", ("the settings", {"size": Text("dozen")})).size == 12
    # The code says what the type says.
    assert build("app/box", ("", {"size": 7})).size == 7
    with pytest.raises(GConfigError, match="size: expected int, 12 or less, got 'dozen'"):
        build("app/box", ("", {"size": "dozen"}))
    with pytest.raises(GConfigError, match=r"size: expected 'dozen', got 7 \(from the settings\)"):
        build("app/box", ("the settings", {"size": 7}))


def test_a_gclass_may_say_what_is_wrong_between_parameters() -> None:
    class Range(GObj):
        class config(GObj.config):
            low: int = param(0, "the lower end")
            high: int = param(10, "the upper end")

            def misfits(self) -> Iterator[str]:
                if self.low > self.high:
                    yield f"low: expected at most high ({self.high}), got {self.low}"

    app = GAplic("app")
    with pytest.raises(GConfigError, match=r"low: expected at most high \(10\), got 11"):
        app.create_gobj("range", Range, app, low=11)
    assert not app.children
    range_ = app.create_gobj("range", Range, app, low=11, high=12)
    with pytest.raises(GConfigError, match=r"low: expected at most high \(5\), got 11"):
        range_.write_parameters(high=5)
    assert range_.config.high == 12
    app.destroy_gobj(app)


def test_what_is_wrong_between_parameters_is_told_beside_what_is_wrong_with_others() -> None:
    """But not where it may only follow from the one that is wrong: that one has its default."""

    class Range(GObj):
        class config(GObj.config):
            low: int = param(0, "the lower end")
            high: int = param(10, "the upper end")
            label: str = param("", "any text")

            def misfits(self) -> Iterator[str]:
                if self.low > self.high:
                    yield f"low: expected at most high ({self.high}), got {self.low}"

    def faults(**given: Any) -> list[str]:
        with pytest.raises(GConfigError) as caught:
            app.create_gobj("range", Range, app, **given)
        return [line.split()[0] for line in str(caught.value).splitlines()[1:]] or [
            str(caught.value).split()[2]
        ]

    app = GAplic("app")
    assert faults(label=3, low=11) == ["label:", "low:"]
    assert faults(qqqq=3, low=11) == ["qqqq:", "low:"]
    assert faults(high="12", low=11) == ["high:"]
    assert faults(hihg=12, low=11) == ["hihg:"]
    range_ = app.create_gobj("range", Range, app)
    with pytest.raises(GConfigError, match=r"label: .*\n  low: expected at most high \(10\)"):
        range_.write_parameters(label=3, low=11)
    app.destroy_gobj(app)
