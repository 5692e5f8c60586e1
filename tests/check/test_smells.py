"""Each smell: a gclass that has it, and the nearest one that has not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ginsfsm import POSTPONE, Event, GObj, after, enter, on, param
from ginsfsm.c_sock import (
    EV_CONNECT_FAILED,
    EV_CONNECTED,
    EV_DISCONNECTED,
    EV_RX_DATA,
    GSock,
)
from ginsfsm.check.family import late_timeout, namesake
from ginsfsm.check.finding import Finding
from ginsfsm.check.smells import forgotten_event, looks_like_session, of_machine
from ginsfsm.check.usage import unheard_output, unread_parameter, unsent_output

HERE = __file__


class EV_A(Event):
    """Not of any other gobj."""


class EV_B(Event):
    """Likewise."""


class EV_C(Event):
    """Likewise."""


class EV_D(Event):
    """Likewise."""


class EV_TOLD(Event):
    """What a child tells."""


def codes(findings: Iterator[Finding] | Sequence[Finding]) -> list[str]:
    return [one.code for one in findings]


def machine_codes(cls: type[GObj]) -> list[str]:
    return [one.code for one in of_machine(cls)]


def line_of(text: str) -> int:
    """The line of this file that holds the text, which is its only one besides the call."""
    with open(HERE) as file:
        lines = [number for number, line in enumerate(file, 1) if text in line]
    return lines[0]


def never_by_itself(_event: type[Event]) -> bool:
    return False


def always_by_itself(_event: type[Event]) -> bool:
    return True


# -- no-way-out ------------------------------------------------------------------------------------


class Trapped(GObj):
    machine = {
        "ST_ONE": [on(EV_A, None, "ST_TRAP")],
        "ST_TRAP": [on(EV_A, None)],  # the trap of Trapped
    }


class TrappedNowhere(GObj):
    machine = {"ST_ONE": [on(EV_A, None, "ST_TRAP")], "ST_TRAP": []}


class EndsItself(GObj):
    def ac_end(self, event: EV_A) -> None:
        self.finish()

    def finish(self) -> None:
        self.destroy_gobj(self)

    machine = {"ST_ONE": [on(EV_A, ac_end, "ST_END")], "ST_END": []}


class EndsOther(GObj):
    def ac_end(self, event: EV_A) -> None:
        self.destroy_gobj(event.source)

    machine = {"ST_ONE": [on(EV_A, ac_end, "ST_END")], "ST_END": []}


class Tells(GObj):
    outputs = [EV_TOLD]

    def ac_tell(self) -> None:
        self.broadcast_event(EV_TOLD())

    machine = {"ST_ONE": [on(EV_A, None, "ST_END")], "ST_END": [enter(ac_tell)]}


class TellsParent(GObj):
    def ac_tell(self, event: EV_A) -> None:
        self.post_event(self.parent, EV_TOLD())

    machine = {"ST_ONE": [on(EV_A, ac_tell, "ST_END")], "ST_END": []}


class SpeaksToAnother(GObj):
    def ac_tell(self, event: EV_A) -> None:
        self.send_event(event.source, EV_TOLD())

    machine = {"ST_ONE": [on(EV_A, ac_tell, "ST_END")], "ST_END": []}


class StopsTheProgram(GObj):
    def ac_stop(self, event: EV_A) -> None:
        self.gaplic.stop()

    machine = {"ST_ONE": [on(EV_A, ac_stop, may=("ST_END",))], "ST_END": []}


class EndsInALambda(GObj):
    machine = {
        "ST_ONE": [on(EV_A, None, "ST_END")],
        "ST_END": [enter(lambda me: me.destroy_gobj(me))],
    }


class SpeaksInALambda(GObj):
    machine = {
        "ST_ONE": [on(EV_A, None, "ST_END")],
        "ST_END": [enter(lambda me: me.post_event(me, EV_A()))],
    }


class Unreadable(GObj):
    machine = {
        "ST_ONE": [on(EV_A, eval("lambda me, event: me.mystery()"), "ST_END")],
        "ST_END": [],
    }


class Session(GObj):
    def ac_serve(self, event: EV_RX_DATA) -> None:
        self.served = event.data

    machine = {
        "ST_NEW": [on(EV_CONNECTED, None, "ST_SERVING")],
        "ST_SERVING": [on(EV_RX_DATA, ac_serve)],
    }


class DeafSession(GObj):
    machine = {
        "ST_NEW": [on(EV_CONNECTED, None, "ST_SERVING")],
        "ST_SERVING": [on(EV_RX_DATA, None)],
    }


class Connects(Session):
    def start_up(self) -> None:
        self.gsock = self.create_gobj("gsock", GSock, self)

    machine = Session.machine


class ServesForEver(GObj):
    machine = {"ST_OPEN": [on(EV_A, None)]}


class TestNoWayOut:
    def test_a_state_that_nothing_leaves(self) -> None:
        found = list(of_machine(Trapped))
        assert codes(found) == ["no-way-out"]
        assert found[0].file == HERE
        assert found[0].line == line_of("# the trap of Trapped")
        assert found[0].gclass == "Trapped"
        assert "nothing leads out of ST_TRAP" in found[0].text

    def test_a_state_without_rows_is_found_at_its_name(self) -> None:
        found = list(of_machine(TrappedNowhere))
        assert codes(found) == ["no-way-out"]
        assert found[0].line == line_of("class TrappedNowhere") + 1

    def test_a_gobj_that_ends_there_is_all_right(self) -> None:
        assert machine_codes(EndsItself) == []

    def test_the_end_of_another_gobj_is_not_its_own(self) -> None:
        assert machine_codes(EndsOther) == ["no-way-out"]

    def test_somebody_is_told(self) -> None:
        assert machine_codes(Tells) == []
        assert machine_codes(TellsParent) == []

    def test_to_speak_to_another_is_not_to_tell_the_owner(self) -> None:
        assert machine_codes(SpeaksToAnother) == ["no-way-out"]

    def test_a_lambda(self) -> None:
        assert machine_codes(EndsInALambda) == []
        assert machine_codes(SpeaksInALambda) == ["no-way-out"]

    def test_what_cannot_be_read_is_not_judged(self) -> None:
        assert machine_codes(Unreadable) == []

    def test_the_program_stops(self) -> None:
        assert machine_codes(StopsTheProgram) == []

    def test_a_session_goes_with_its_connection(self) -> None:
        assert codes(list(of_machine(Session, is_session=True))) == []
        assert codes(list(of_machine(DeafSession, is_session=True))) == ["no-way-out"]
        assert machine_codes(Session) == ["no-way-out"]

    def test_what_looks_like_a_session(self) -> None:
        """It takes what a connection tells, and has made none."""
        assert looks_like_session(Session)
        assert not looks_like_session(Connects)
        assert not looks_like_session(Trapped)

    def test_the_only_state_of_a_machine(self) -> None:
        assert machine_codes(ServesForEver) == []


class TestSource:
    def test_a_class_without_a_statement(self) -> None:
        """What is made by calling `type` is told of at its rows."""
        row = on(EV_A, None, "ST_ONE")
        made = type("Made", (GObj,), {"machine": {"ST_ONE": [row]}, "__module__": __name__})
        assert [(one.code, one.file, one.line) for one in of_machine(made)] == [
            ("own-state", HERE, row.line)
        ]

    def test_a_class_of_the_same_name_in_a_function(self) -> None:
        def make() -> type[GObj]:
            class Trapped(GObj):
                machine = {
                    "ST_ONE": [on(EV_A, None, "ST_TRAP")],
                    "ST_TRAP": [],  # the local trap
                }

            return Trapped

        assert next(iter(of_machine(make()))).line == line_of("# the local trap")
        assert next(iter(of_machine(Trapped))).line == line_of("# the trap of Trapped")


# -- forgotten-event -------------------------------------------------------------------------------


class Forgets(GObj):
    machine = {
        "ST_ONE": [on(EV_A, None, "ST_TWO"), on(EV_B, None), on(EV_C, None)],
        "ST_TWO": [on(EV_A, None, "ST_THREE"), on(EV_B, None), on(EV_C, None)],
        "ST_THREE": [on(EV_A, None, "ST_ONE"), on(EV_B, None)],  # Forgets has forgotten
    }


class ForgetsOfTwo(GObj):
    machine = {
        "ST_ONE": [on(EV_A, None, "ST_TWO"), on(EV_B, None), on(EV_C, None)],
        "ST_TWO": [on(EV_A, None, "ST_ONE"), on(EV_B, None)],
    }


class Turnstile(GObj):
    machine = {
        "ST_LOCKED": [on(EV_A, None, "ST_OPEN")],
        "ST_OPEN": [on(EV_B, None, "ST_LOCKED")],
    }


class Steps(GObj):
    machine = {
        "ST_ONE": [on(EV_A, None, "ST_TWO"), on(EV_B, None), on(EV_C, None)],
        "ST_TWO": [on(EV_A, None, "ST_THREE"), on(EV_B, None), on(EV_D, None)],
        "ST_THREE": [on(EV_A, None, "ST_ONE"), on(EV_B, None)],
    }


class OneInCommon(GObj):
    machine = {
        "ST_ONE": [on(EV_A, None, "ST_TWO"), on(EV_B, None)],
        "ST_TWO": [on(EV_A, None, "ST_ONE")],
    }


class FewInCommon(GObj):
    machine = {
        "ST_ONE": [
            on(EV_A, None, "ST_TWO"),
            on(EV_B, None),
            on(EV_C, None),
            on(EV_D, None),
            on(EV_TOLD, None),
        ],
        "ST_TWO": [on(EV_A, None, "ST_ONE"), on(EV_B, None)],
    }


class ShutDoor(GObj):
    machine = {
        "ST_OPEN": [
            on(EV_A, None, "ST_SHUT"),
            on(EV_RX_DATA, None),
            on(EV_DISCONNECTED, None),
            on(EV_CONNECTED, None),
        ],
        "ST_SHUT": [on(EV_A, None, "ST_OPEN"), on(EV_RX_DATA, None), on(EV_DISCONNECTED, None)],
    }


class ForgetsBesideRest(GObj):
    machine = {
        **Forgets.machine,
        "ST_THREE": [on(EV_A, None, "ST_REST"), on(EV_B, None)],
        "ST_REST": [on(EV_D, None, "ST_ONE")],
    }


class ForgetsTheEnd(GObj):
    machine = {
        "ST_REST": [on(EV_D, None, "ST_ONE")],
        "ST_ONE": [on(EV_A, None, "ST_TWO"), on(EV_B, None), on(EV_C, None, "ST_REST")],
        "ST_TWO": [on(EV_A, None, "ST_THREE"), on(EV_B, None), on(EV_C, None, "ST_REST")],
        "ST_THREE": [on(EV_A, None, "ST_ONE"), on(EV_B, None)],  # ForgetsTheEnd has forgotten
    }


class EndsOnce(GObj):
    machine = {
        "ST_REST": [on(EV_D, None, "ST_ONE")],
        "ST_ONE": [on(EV_A, None, "ST_TWO"), on(EV_B, None), on(EV_C, None, "ST_REST")],
        "ST_TWO": [on(EV_A, None, "ST_ONE"), on(EV_B, None)],
    }


class TestForgottenEvent:
    def test_one_state_of_three(self) -> None:
        found = list(forgotten_event(Forgets, never_by_itself))
        assert codes(found) == ["forgotten-event"]
        assert found[0].line == line_of("# Forgets has forgotten")
        assert "ST_THREE has no row for EV_C, which ST_ONE and ST_TWO take;" in found[0].text

    def test_of_two_states_only_what_comes_by_itself(self) -> None:
        assert codes(forgotten_event(ForgetsOfTwo, never_by_itself)) == []
        found = list(forgotten_event(ForgetsOfTwo, always_by_itself))
        assert codes(found) == ["forgotten-event"]
        assert "ST_TWO has no row for EV_C, which ST_ONE takes;" in found[0].text

    def test_states_with_nothing_in_common_are_no_siblings(self) -> None:
        assert codes(forgotten_event(Turnstile, always_by_itself)) == []

    def test_siblings_have_two_events_in_common_and_half_of_them(self) -> None:
        assert codes(forgotten_event(OneInCommon, always_by_itself)) == []
        assert codes(forgotten_event(FewInCommon, always_by_itself)) == []

    def test_what_only_one_state_takes_belongs_to_that_state(self) -> None:
        assert codes(forgotten_event(Steps, always_by_itself)) == []

    def test_a_state_of_another_kind_ends_the_search(self) -> None:
        assert codes(forgotten_event(ForgetsBesideRest, always_by_itself)) == []

    def test_but_not_for_the_event_that_ends_all_the_others(self) -> None:
        found = list(forgotten_event(ForgetsTheEnd, never_by_itself))
        assert codes(found) == ["forgotten-event"]
        assert found[0].line == line_of("# ForgetsTheEnd has forgotten")
        assert "ST_THREE has no row for EV_C, which ST_ONE and ST_TWO take;" in found[0].text

    def test_what_ends_one_other_may_be_meant_for_that_one(self) -> None:
        assert codes(forgotten_event(EndsOnce, always_by_itself)) == []

    def test_a_door_that_is_shut_is_meant(self) -> None:
        assert codes(forgotten_event(ShutDoor, always_by_itself)) == []


# -- rows ------------------------------------------------------------------------------------------


class AfterNothing(GObj):
    machine = {
        "ST_ONE": [after(0, None, "ST_TWO"), on(EV_A, None, "ST_TWO")],
        "ST_TWO": [after(float("inf"), None, "ST_ONE"), on(EV_A, None, "ST_ONE")],
    }


class SwitchedOff(GObj):
    class config(GObj.config):
        patience: float = param(0.0, "seconds; 0 is no limit")

    machine = {
        "ST_ONE": [after("patience", None, "ST_TWO"), on(EV_A, None, "ST_TWO")],
        "ST_TWO": [after(0.1, None, "ST_ONE")],
    }


class Idle(GObj):
    def ac_beat(self) -> None:
        self.beats = 1

    machine = {"ST_ONE": [after(5, None), after(6, ac_beat)]}


class ToItself(GObj):
    def ac_beat(self) -> None:
        self.beats = 1

    machine = {
        "ST_ONE": [
            on(EV_A, None, "ST_ONE"),
            after(5, ac_beat, "ST_ONE"),
        ],
    }


class Shared(GObj):
    always = [on(EV_A, None, "ST_ONE")]
    machine = {"ST_ONE": [*always, on(EV_B, None, "ST_TWO")], "ST_TWO": [*always]}


class Guarded(GObj):
    def is_late(self, event: EV_A) -> bool:
        return True

    def is_early(self, event: EV_A) -> bool:
        return True

    machine = {
        "ST_ONE": [
            on(EV_A, None, when=is_late),
            on(EV_A, None, when=is_early),
            on(EV_A, None, when=is_late),  # asked again
        ],
    }


class Postponing(GObj):
    machine = {
        "ST_ONE": [on(EV_A, POSTPONE), on(EV_B, POSTPONE), on(EV_C, None, "ST_TWO")],
        "ST_TWO": [on(EV_A, None, "ST_ONE"), on(EV_C, None, "ST_ONE")],
    }


class PostponingForItself(GObj):
    def is_late(self, event: EV_A) -> bool:
        return True

    def ac_end(self, event: EV_C) -> None:
        self.destroy_gobj(self)

    machine = {
        "ST_ONE": [
            on(EV_A, None, when=is_late),
            on(EV_A, POSTPONE),
            on(EV_B, None, "ST_ONE"),
            on(EV_C, ac_end, "ST_TWO"),
        ],
        "ST_TWO": [],
    }


class TestRows:
    def test_after_that_never_fires(self) -> None:
        found = list(of_machine(AfterNothing))
        assert codes(found) == ["never-after", "never-after"]
        assert "ST_ONE: after(0) never fires" in found[0].text
        assert found[1].line == found[0].line + 1

    def test_a_parameter_may_switch_it_off(self) -> None:
        assert machine_codes(SwitchedOff) == []

    def test_after_that_does_nothing(self) -> None:
        found = list(of_machine(Idle))
        assert codes(found) == ["no-effect"]
        assert "after(5) has no action and stays" in found[0].text

    def test_a_row_that_names_its_own_state(self) -> None:
        found = list(of_machine(ToItself))
        assert codes(found) == ["own-state", "own-state"]
        assert "EV_A names its own state" in found[0].text
        assert "after(5) names its own state" in found[1].text

    def test_a_row_of_several_states_may(self) -> None:
        assert machine_codes(Shared) == []

    def test_the_same_guard_twice(self) -> None:
        found = list(of_machine(Guarded))
        assert codes(found) == ["same-guard"]
        assert found[0].line == line_of("# asked again")
        assert f"EV_A is asked is_late in line {found[0].line - 2} already" in found[0].text

    def test_postponed_for_nobody(self) -> None:
        found = list(of_machine(Postponing))
        assert codes(found) == ["lost-postponed"]
        assert "ST_ONE postpones EV_B" in found[0].text

    def test_staying_delivers_nothing_that_was_postponed(self) -> None:
        assert machine_codes(PostponingForItself) == ["own-state", "lost-postponed"]


# -- between a gclass and its children -------------------------------------------------------------


class Caller(GObj):
    """Gives up after 10 s on a connection that tries for 30 s."""

    def start_up(self) -> None:
        self.gsock = self.create_gobj("gsock", GSock, self, host="127.0.0.1", port=1)

    machine = {
        "ST_CALLING": [
            on(EV_CONNECTED, None, "ST_TALKING"),
            on(EV_CONNECT_FAILED, None, "ST_RESTING"),
            after(10, None, "ST_RESTING"),  # gives up first
        ],
        "ST_TALKING": [on(EV_DISCONNECTED, None, "ST_RESTING"), after(5, None, "ST_CALLING")],
        "ST_RESTING": [after(1, None, "ST_CALLING")],
    }


class PatientCaller(Caller):
    class config(GObj.config):
        patience: float = param(31.0, "seconds")

    def start_up(self) -> None:
        self.gsock = self.create_gobj("gsock", GSock, self, host="127.0.0.1", port=1)

    machine = {**Caller.machine, "ST_CALLING": [
        on(EV_CONNECTED, None, "ST_TALKING"), after("patience", None, "ST_RESTING"),
    ]}  # fmt: skip


class QuickCaller(Caller):
    def start_up(self) -> None:
        self.gsock = self.create_gobj("gsock", GSock, self, connect_timeout=8.0)

    machine = Caller.machine


class UnknownCaller(Caller):
    class config(GObj.config):
        seconds: float = param(5.0, "seconds")

    def start_up(self) -> None:
        self.gsock = self.create_gobj("g", GSock, self, connect_timeout=self.config.seconds)

    machine = Caller.machine


class StarredCaller(Caller):
    options: dict[str, float] = {}

    def start_up(self) -> None:
        self.gsock = self.create_gobj("g", GSock, self, **self.options)

    machine = Caller.machine


class HeirCaller(Caller):
    """Its base makes the child."""

    machine = {**Caller.machine, "ST_CALLING": [
        on(EV_CONNECTED, None, "ST_TALKING"), after(20, None, "ST_RESTING"),
    ]}  # fmt: skip


class BusyCaller(GObj):
    """Its short timeouts are in a state that does not wait for the gsock, or leave none."""

    def start_up(self) -> None:
        self.gsock = self.create_gobj("gsock", GSock, self)

    def ac_say(self) -> None:
        self.said = True

    machine = {
        "ST_RESTING": [after(1, None, "ST_CALLING")],
        "ST_CALLING": [after(2, ac_say), on(EV_CONNECTED, None, "ST_TALKING")],
        "ST_TALKING": [on(EV_A, None, "ST_RESTING")],
    }


class Stepping(GObj):
    outputs = [EV_TOLD]
    machine = {
        "ST_FIRST": [after(3, None, "ST_SECOND")],
        "ST_SECOND": [after(3600, None, "ST_FIRST")],
    }


class Stepper(GObj):
    def start_up(self) -> None:
        self.create_gobj("stepping", Stepping, self)

    machine = {
        "ST_WAITING": [on(EV_TOLD, None, "ST_DONE"), after(5, None, "ST_DONE")],
        "ST_DONE": [on(EV_A, None, "ST_WAITING")],
    }


class TestLateTimeout:
    def test_a_parent_that_gives_up_first(self) -> None:
        found = list(late_timeout(Caller))
        assert codes(found) == ["late-timeout"]
        assert found[0].line == line_of("# gives up first")
        assert found[0].text == (
            "ST_CALLING gives up after 10 s, and GSock only after 30 s (ST_CONNECTING, "
            "connect_timeout); give it less, or wait longer"
        )

    def test_a_child_that_the_base_makes(self) -> None:
        assert codes(late_timeout(HeirCaller)) == ["late-timeout"]

    def test_one_that_waits_longer(self) -> None:
        assert codes(late_timeout(PatientCaller)) == []

    def test_one_that_gives_less(self) -> None:
        """What is left then are the 10 s that a handshake of TLS may take, which are not more."""
        assert codes(late_timeout(QuickCaller)) == []

    def test_what_is_known_only_when_it_runs_is_not_judged(self) -> None:
        assert codes(late_timeout(UnknownCaller)) == []
        assert codes(late_timeout(StarredCaller)) == []

    def test_only_a_timeout_that_ends_the_wait(self) -> None:
        assert codes(late_timeout(BusyCaller)) == []

    def test_only_the_first_step_of_the_child(self) -> None:
        assert codes(late_timeout(Stepper)) == []


def make_event(name: str) -> type[Event]:
    return type(name, (Event,), {"__module__": "somewhere.else"})


EV_TOLD_ELSEWHERE = make_event("EV_TOLD")


class Teller(GObj):
    outputs = [EV_TOLD]

    def ac_tell(self, event: EV_A) -> None:
        self.broadcast_event("EV_TOLD")

    machine = {"ST_ONE": [on(EV_A, ac_tell)]}


class Deaf(GObj):
    def start_up(self) -> None:
        self.create_gobj("teller", Teller, self)

    machine = {"ST_ONE": [on(EV_TOLD_ELSEWHERE, None)]}


class Hears(GObj):
    def start_up(self) -> None:
        self.create_gobj("teller", Teller, self)

    machine = {"ST_ONE": [on(EV_TOLD, None)]}


class TestNamesake:
    def test_an_event_of_the_same_name(self) -> None:
        found = list(namesake(Deaf))
        assert codes(found) == ["namesake"]
        assert "EV_TOLD is the one of somewhere.else, but Teller sends that of" in found[0].text

    def test_the_right_one(self) -> None:
        assert codes(namesake(Hears)) == []


# -- declared and not used -------------------------------------------------------------------------


class EV_NEVER_MADE(Event):
    """Only declared."""


class Declares(GObj):
    class config(GObj.config):
        used: int = param(1, "read")
        named: float = param(1.0, "read by a row")
        forgotten: int = param(1, "not read")
        subscriber: GObj | None = param(None, "read by the library")

    outputs = [EV_TOLD, EV_NEVER_MADE]

    def ac_tell(self, event: EV_A) -> None:
        if self.config.used:
            self.broadcast_event(EV_TOLD())

    machine = {
        "ST_ONE": [on(EV_A, ac_tell), on(EV_NEVER_MADE, None), after("named", None)],
    }


class DeclaresMore(Declares):
    class config(Declares.config):
        more: int = param(1, "not read either")


class TestUsage:
    def test_an_output_that_nobody_hears(self) -> None:
        found = list(unheard_output(Teller, [Deaf], [Deaf, Teller]))
        assert codes(found) == ["unheard-output"]
        assert (
            "no gclass has a row for EV_TOLD, neither Deaf, which makes a Teller" in found[0].text
        )
        assert found[0].line == line_of("class Teller(") + 1

    def test_one_that_somebody_hears(self) -> None:
        assert codes(unheard_output(Teller, [Deaf], [Deaf, Hears])) == []

    def test_a_library_has_its_users_elsewhere(self) -> None:
        assert codes(unheard_output(Teller, [], [Deaf])) == []

    def test_inherited_outputs_are_told_of_the_base(self) -> None:
        class Loud(Teller):
            outputs = [*Teller.outputs]

        assert codes(unheard_output(Loud, [Deaf], [Deaf])) == []

    def test_an_output_that_nothing_sends(self) -> None:
        found = list(unsent_output(Declares, [HERE]))
        assert [one.text.split(";")[0] for one in found] == ["nothing sends EV_NEVER_MADE"]
        assert found[0].line == line_of("outputs = [EV_TOLD, EV_NEVER_MADE]")

    def test_a_parameter_that_nothing_reads(self) -> None:
        found = list(unread_parameter(Declares, [HERE]))
        assert [one.text.split(";")[0] for one in found] == [
            "nothing reads the parameter forgotten"
        ]
        assert found[0].line == line_of('param(1, "not read")')

    def test_an_inherited_parameter_is_told_of_the_base(self) -> None:
        found = list(unread_parameter(DeclaresMore, [HERE]))
        assert [one.text.split(";")[0] for one in found] == ["nothing reads the parameter more"]
