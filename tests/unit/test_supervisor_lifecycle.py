"""The pure machine that orders starts and stops: tables of one history each, and its laws over random histories."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ext_proc.supervisor.lifecycle import (
    Announce,
    Backoff,
    Effect,
    Event,
    Exited,
    Finish,
    Kill,
    Lifecycle,
    Ready,
    ServiceLimits,
    SetTimer,
    Start,
    StartAsked,
    State,
    Stop,
    StopAsked,
    TimerFired,
)

STAGES = (("redis", "mock"), ("w0", "w1"), ("envoy",))
SERVICES = tuple(service for stage in STAGES for service in stage)

# One row per event: what happens, then what the machine wants done. `+x` start, `-x` stop, `!x` kill, `tN:x` timer.
HISTORIES = {
    "stages start one after the other and stop backwards": """
        start        | +redis t30:redis +mock t30:mock
        ready redis  |
        ready mock   | +w0 t30:w0 +w1 t30:w1
        ready w1     |
        ready w0     | +envoy t30:envoy
        ready envoy  | announce
        stop         | -envoy t10:envoy
        exit envoy   | -w0 t10:w0 -w1 t10:w1
        exit w1      |
        exit w0      | -redis t10:redis -mock t10:mock
        exit redis   |
        exit mock    | finish
    """,
    "a service that dies before the stack is up fails it, and what runs is stopped in order": """
        start        | +redis t30:redis +mock t30:mock
        ready redis  |
        ready mock   | +w0 t30:w0 +w1 t30:w1
        ready w1     |
        exit w0      | -w1 t10:w1
        exit w1      | -redis t10:redis -mock t10:mock
        exit mock    |
        exit redis   | finish: w0 died
    """,
    "a service that stays silent is killed and fails the stack": """
        start        | +redis t30:redis +mock t30:mock
        ready redis  |
        timer mock   | !mock
        exit mock    | -redis t10:redis
        exit redis   | finish: not ready after 30 seconds: mock died
    """,
    "a service that does not stop in time is killed": """
        start        | +redis t30:redis +mock t30:mock
        ready redis  |
        ready mock   | +w0 t30:w0 +w1 t30:w1
        stop         | -w0 t10:w0 -w1 t10:w1
        exit w0      |
        timer w1     | !w1
        exit w1      | -redis t10:redis -mock t10:mock
        exit mock    |
        exit redis   | finish
    """,
    "the second stop kills everything at once, the third changes nothing": """
        start        | +redis t30:redis +mock t30:mock
        ready redis  |
        ready mock   | +w0 t30:w0 +w1 t30:w1
        ready w0     |
        ready w1     | +envoy t30:envoy
        ready envoy  | announce
        stop         | -envoy t10:envoy
        stop         | !redis !mock !w0 !w1 !envoy
        stop         |
        exit redis   |
        exit mock    |
        exit envoy   |
        exit w0      |
        exit w1      | finish
    """,
    "a stop while the first stage starts ends what was started and nothing else": """
        start        | +redis t30:redis +mock t30:mock
        ready redis  |
        stop         | -redis t10:redis -mock t10:mock
        ready mock   |
        exit redis   |
        exit mock    | finish
    """,
    "a stop before the start finishes, and a late start does nothing": """
        stop         | finish
        start        |
        stop         |
    """,
}


def machine(backoff: Backoff | None = None) -> Lifecycle:
    return Lifecycle(STAGES, {service: ServiceLimits(30.0, 10.0) for service in SERVICES}, backoff)


def event_of(text: str) -> Event:
    kind, _, service = text.strip().partition(" ")
    match kind:
        case "start":
            return StartAsked()
        case "stop":
            return StopAsked()
        case "ready":
            return Ready(service.strip())
        case "exit":
            return Exited(service.strip(), f"{service.strip()} died")
        case "timer":
            return TimerFired(service.strip())
    raise AssertionError(text)


def text_of(effect: Effect) -> str:
    match effect:
        case Start(service):
            return f"+{service}"
        case Stop(service):
            return f"-{service}"
        case Kill(service):
            return f"!{service}"
        case SetTimer(service, seconds):
            return f"t{seconds:g}:{service}"
        case Announce():
            return "announce"
        case Finish(None):
            return "finish"
        case Finish(failure):
            return f"finish: {failure}"


@pytest.mark.parametrize("history", HISTORIES.values(), ids=HISTORIES.keys())
def test_history(history: str) -> None:
    """Each event of the table is answered by exactly the effects beside it."""
    tested = machine()
    for row in history.strip().splitlines():
        event, _, effects = row.partition("|")
        assert " ".join(map(text_of, tested.receive(event_of(event)))) == effects.strip(), row


def up() -> Lifecycle:
    tested = machine()
    tested.receive(StartAsked())
    for service in SERVICES:
        tested.receive(Ready(service))
    assert set(tested.states.values()) == {State.UP}
    return tested


def test_a_dead_service_comes_back_after_pauses_that_double() -> None:
    """Each death in a row doubles the pause up to the longest; a long life forgives the deaths before."""
    tested = up()
    pauses = []
    for _ in range(9):
        (timer,) = tested.receive(Exited("w0", "died", up_seconds=1.0))
        assert isinstance(timer, SetTimer)
        pauses.append(timer.seconds)
        assert tested.receive(TimerFired("w0"))[0] == Start("w0", restarts=len(pauses))
        tested.receive(Ready("w0"))
    assert pauses == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0, 10.0]
    assert tested.receive(Exited("w0", "died", up_seconds=60.0)) == (SetTimer("w0", 0.1),)
    assert tested.restarts["w0"] == 9


def test_a_restart_that_stays_silent_is_killed_and_tried_again() -> None:
    """After the first start no service can fail the stack, however often it does not come up."""
    tested = up()
    tested.receive(Exited("redis", "died"))
    tested.receive(TimerFired("redis"))
    assert tested.receive(TimerFired("redis")) == (Kill("redis"),)
    assert tested.receive(Exited("redis", "killed")) == (SetTimer("redis", 0.2),)


def test_redis_is_started_again_while_workers_are_stopping() -> None:
    """Workers settle into Redis when they stop, so a stage that is still needed is kept alive until its turn."""
    tested = up()
    tested.receive(StopAsked())
    tested.receive(Exited("envoy", "stopped"))
    assert tested.receive(Exited("redis", "died")) == (SetTimer("redis", 0.1),)
    assert tested.receive(TimerFired("redis"))[0] == Start("redis", restarts=1)
    tested.receive(Ready("redis"))
    tested.receive(Exited("w0", "stopped"))
    assert Stop("redis") in tested.receive(Exited("w1", "stopped"))


def test_a_service_that_rests_is_not_waited_for() -> None:
    """A stop does not start what is down only to stop it again."""
    tested = up()
    tested.receive(Exited("envoy", "died"))
    assert tested.receive(StopAsked())[0] == Stop("w0")
    assert tested.receive(TimerFired("envoy")) == ()


class World:
    """Carries out effects in random order and checks the laws at each step."""

    def __init__(self, draw: st.DataObject) -> None:
        self.draw = draw
        self.machine = machine()
        self.running: set[str] = set()
        self.killed: set[str] = set()
        self.timers: set[str] = set()
        self.was_up: set[str] = set()
        self.announced = 0
        self.finished = 0
        self.stops = 0

    def tell(self, event: Event) -> None:
        for effect in self.machine.receive(event):
            assert not self.finished, "nothing is done after Finish"
            self.carry_out(effect)

    def carry_out(self, effect: Effect) -> None:
        match effect:
            case Start(service):
                assert service not in self.running
                if service not in self.was_up:
                    earlier = [name for stage in STAGES[: stage_of(service)] for name in stage]
                    assert self.was_up.issuperset(earlier), "a stage starts when the one before was up"
                self.running.add(service)
            case Stop(service) | Kill(service):
                assert service in self.running
                if isinstance(effect, Kill):
                    self.killed.add(service)
                elif self.stops < 2:
                    later = {name for stage in STAGES[stage_of(service) + 1 :] for name in stage}
                    assert not later & self.running, "a stage stops when the one after is gone"
            case SetTimer(service):
                self.timers.add(service)
            case Announce():
                self.announced += 1
            case Finish():
                assert not self.running, "nothing runs when it is finished"
                self.finished += 1

    def happenings(self) -> Iterator[Event]:
        for service in sorted(self.running):
            yield Exited(service, "died", up_seconds=self.draw.draw(st.sampled_from([0.0, 100.0])))
            if service not in self.killed:
                yield Ready(service)
        for service in sorted(self.timers):
            yield TimerFired(service)
        if self.stops < 3:
            yield StopAsked()

    def step(self) -> None:
        event = self.draw.draw(st.sampled_from(list(self.happenings())))
        match event:
            case Exited(service):
                self.running.discard(service)
                self.killed.discard(service)
            case Ready(service):
                self.was_up.add(service)
            case TimerFired(service):
                self.timers.discard(service)
            case StopAsked():
                self.stops += 1
            case StartAsked():
                raise AssertionError("asked once, at the beginning")
        self.tell(event)


def stage_of(service: str) -> int:
    return next(index for index, stage in enumerate(STAGES) if service in stage)


@given(st.data())
def test_laws_over_random_histories(data: st.DataObject) -> None:
    """Whatever dies, stays silent or is asked, stages start and stop in order, and a stop ends with one Finish after
    which nothing runs.
    """
    world = World(data)
    world.tell(StartAsked())
    for _ in range(data.draw(st.integers(0, 60))):
        if world.finished:
            break
        world.step()
    while world.stops < 2 and not world.finished:
        world.stops += 1
        world.tell(StopAsked())
    for service in sorted(world.running):
        world.running.discard(service)
        world.tell(Exited(service, "killed"))
    assert world.finished == 1
    assert world.announced <= 1
