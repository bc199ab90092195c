"""Pure: in which order services start and stop, and what happens when one dies. No clock, no process, no await.

Services stand in stages. A stage starts when every service of the stage before is up, and stops when every service of
the stage after is gone. Theory of operation:

- The first start is all or nothing: a service that ends or stays silent before the stack was announced fails the stack,
  and what was started is stopped again in order.
- Afterwards a service that dies is started again after a back-off that doubles with each death and is forgiven after
  it stayed up for a while. That also holds while later stages are being stopped: Redis must be there for workers
  that settle.
- The first `StopAsked` stops in order, the second kills everything at once.

`receive(event)` answers the effects to carry out, in order. A service has at most one timer: `SetTimer` replaces it,
and states without a timer ignore one that fires late, so nobody needs to cancel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum


@dataclass(frozen=True, slots=True)
class ServiceLimits:
    """How long one service may take. Seconds."""

    start_seconds: float = 30.0
    stop_seconds: float = 10.0


@dataclass(frozen=True, slots=True)
class Backoff:
    """The pause before the n-th restart in a row: `first_seconds` doubled n−1 times, at most `most_seconds`."""

    first_seconds: float = 0.1
    most_seconds: float = 10.0
    forgiven_after_seconds: float = 60.0

    def pause_seconds(self, deaths: int) -> float:
        """`deaths` in a row, at least 1."""
        assert deaths >= 1
        doublings = min(deaths - 1, 30)  # beyond that every pause is the longest; keeps the power small
        return min(self.first_seconds * 2.0**doublings, self.most_seconds)


class State(Enum):
    """Where one service is."""

    PENDING = "pending"  # its stage has not been reached
    STARTING = "starting"  # timer: how long it may take
    UP = "up"
    RESTING = "resting"  # it died; timer: the back-off
    STOPPING = "stopping"  # timer: when it is killed
    GONE = "gone"


@dataclass(frozen=True, slots=True)
class StartAsked:
    """Begin with the first stage."""


@dataclass(frozen=True, slots=True)
class StopAsked:
    """A signal from outside. The second one forces."""


@dataclass(frozen=True, slots=True)
class Ready:
    """A service that was started serves now."""

    service: str


@dataclass(frozen=True, slots=True)
class Exited:
    """A service ended. `detail` is for people; `up_seconds` is how long it had been up, 0 if it never was."""

    service: str
    detail: str
    up_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class TimerFired:
    """The service's timer."""

    service: str


Event = StartAsked | StopAsked | Ready | Exited | TimerFired


@dataclass(frozen=True, slots=True)
class Start:
    """Start the service; answer `Ready` or `Exited`."""

    service: str
    restarts: int  # how often it was started before


@dataclass(frozen=True, slots=True)
class Stop:
    """Ask the service to end; answer `Exited`."""

    service: str


@dataclass(frozen=True, slots=True)
class Kill:
    """End the service now; answer `Exited`."""

    service: str


@dataclass(frozen=True, slots=True)
class SetTimer:
    """Answer `TimerFired` after that time. Replaces the service's timer."""

    service: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Announce:
    """Everything is up for the first time."""


@dataclass(frozen=True, slots=True)
class Finish:
    """Everything is gone. `failure` says why the stack failed; None after an orderly stop."""

    failure: str | None


Effect = Start | Stop | Kill | SetTimer | Announce | Finish


class Lifecycle:
    """One stack, from `StartAsked` to `Finish`."""

    def __init__(
        self,
        stages: Sequence[Sequence[str]],
        limits: dict[str, ServiceLimits] | None = None,
        backoff: Backoff | None = None,
    ) -> None:
        self._stages = tuple(tuple(stage) for stage in stages if stage)
        self._limits = limits or {}
        self._backoff = backoff or Backoff()
        self._state = {service: State.PENDING for stage in self._stages for service in stage}
        assert len(self._state) == sum(map(len, self._stages)), "service names are unique"
        self._deaths = dict.fromkeys(self._state, 0)  # in a row
        self.restarts = dict.fromkeys(self._state, 0)  # in all
        self._reached = -1  # the last stage that was started
        self._announced = False
        self._stopping_stage: int | None = None
        self._too_slow: set[str] = set()  # killed for that; their exit is to come
        self._forced = False
        self._failure: str | None = None
        self._finished = False

    @property
    def states(self) -> dict[str, State]:
        """Where each service is now."""
        return dict(self._state)

    @property
    def is_stopping(self) -> bool:
        """Whether the stack is on its way down, asked or failed."""
        return self._stopping_stage is not None

    def receive(self, event: Event) -> tuple[Effect, ...]:
        """What is to be done about it, in order."""
        match event:
            case StartAsked():
                return self._start_next_stage() if self._reached < 0 and self._stopping_stage is None else ()
            case StopAsked():
                return self._stop_asked()
            case Ready(service):
                return self._ready(service)
            case Exited(service, detail, up_seconds):
                return self._exited(service, detail, up_seconds)
            case TimerFired(service):
                return self._timer_fired(service)

    def _limit(self, service: str) -> ServiceLimits:
        return self._limits.get(service, ServiceLimits())

    # --- starting

    def _start_next_stage(self) -> tuple[Effect, ...]:
        self._reached += 1
        if self._reached == len(self._stages):
            self._announced = True
            return (Announce(),)
        return tuple(effect for service in self._stages[self._reached] for effect in self._start(service))

    def _start(self, service: str) -> tuple[Effect, ...]:
        self._state[service] = State.STARTING
        return (
            Start(service, restarts=self.restarts[service]),
            SetTimer(service, self._limit(service).start_seconds),
        )

    def _ready(self, service: str) -> tuple[Effect, ...]:
        if self._state[service] is not State.STARTING:
            return ()
        self._state[service] = State.UP
        if self._announced or self._stopping_stage is not None:
            return ()
        stage = self._stages[self._reached]
        return self._start_next_stage() if all(self._state[name] is State.UP for name in stage) else ()

    # --- dying

    def _exited(self, service: str, detail: str, up_seconds: float) -> tuple[Effect, ...]:
        if service in self._too_slow:
            self._too_slow.remove(service)
            detail = f"not ready after {self._limit(service).start_seconds:g} seconds: {detail}"
        match self._state[service]:
            case State.STOPPING:
                self._state[service] = State.GONE
                return self._stop_next()
            case State.STARTING if not self._announced:
                self._state[service] = State.GONE
                return self._fail(detail)
            case State.STARTING | State.UP:
                return self._rest(service, up_seconds)
            case _:
                return ()

    def _rest(self, service: str, up_seconds: float) -> tuple[Effect, ...]:
        if up_seconds >= self._backoff.forgiven_after_seconds:
            self._deaths[service] = 0
        self._deaths[service] += 1
        self._state[service] = State.RESTING
        return (SetTimer(service, self._backoff.pause_seconds(self._deaths[service])),)

    def _timer_fired(self, service: str) -> tuple[Effect, ...]:
        match self._state[service]:
            case State.STARTING:
                self._too_slow.add(service)
                return (Kill(service),)  # its exit is answered as that of any service that is starting
            case State.RESTING:
                self.restarts[service] += 1
                return self._start(service)
            case State.STOPPING:
                return (Kill(service),)
            case _:
                return ()

    # --- stopping

    def _fail(self, detail: str) -> tuple[Effect, ...]:
        if self._failure is None:
            self._failure = detail
        return self._stop_next()

    def _stop_asked(self) -> tuple[Effect, ...]:
        if self._stopping_stage is None:
            return self._stop_next()
        if self._forced:
            return ()
        self._forced = True
        killed: list[Effect] = []
        for service, state in self._state.items():
            if state in (State.STARTING, State.UP, State.STOPPING):
                self._state[service] = State.STOPPING
                killed.append(Kill(service))
            else:
                self._state[service] = State.GONE
        return (*killed, *self._stop_next())

    def _stop_next(self) -> tuple[Effect, ...]:
        """Go down the stages as far as they are gone; called whenever stopping may have progressed."""
        if self._stopping_stage is None:
            self._stopping_stage = len(self._stages) - 1
        effects: list[Effect] = []
        while self._stopping_stage >= 0:
            stage = self._stages[self._stopping_stage]
            effects.extend(effect for service in stage for effect in self._stop(service))
            if any(self._state[service] is not State.GONE for service in stage):
                return tuple(effects)
            self._stopping_stage -= 1
        if self._finished:
            return tuple(effects)
        self._finished = True
        return (*effects, Finish(self._failure))

    def _stop(self, service: str) -> tuple[Effect, ...]:
        match self._state[service]:
            case State.STARTING | State.UP:
                self._state[service] = State.STOPPING
                return (Stop(service), SetTimer(service, self._limit(service).stop_seconds))
            case State.PENDING | State.RESTING:
                self._state[service] = State.GONE
                return ()
            case State.STOPPING | State.GONE:
                return ()
