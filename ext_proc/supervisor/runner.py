"""Carries out what the lifecycle says: spawns, signals, timers; and tells it what happened. The one asyncio edge."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ext_proc.supervisor import lifecycle
from ext_proc.supervisor.errors import SupervisorError
from ext_proc.supervisor.lifecycle import Announce, Effect, Event, Finish, Kill, SetTimer, Start, Stop
from ext_proc.supervisor.processes import ChildProcess, bound_log
from ext_proc.supervisor.services import Service
from ext_proc.supervisor.state_dir import StateDir
from ext_proc.supervisor.warm_workers import WarmWorkers

_LOG_CHECK_SECONDS = 30.0


@dataclass(slots=True)
class _Life:
    """One start of a service: what runs for it and since when it serves."""

    starting: asyncio.Task[None] | None = None
    stopping: asyncio.Task[None] | None = None
    child: ChildProcess | None = None
    up_since: float | None = None
    killed: bool = False  # asked for before there was a process


@dataclass(frozen=True, slots=True)
class Observer:
    """Who is told. `say` takes a line for people. `announce` runs beside the stack once everything is up. `reload`
    answers a SIGHUP; None: it stops the stack, because the terminal is gone.
    """

    say: Callable[[str], None]
    announce: Callable[[], Coroutine[Any, Any, None]]
    child_gone: Callable[[str, int], None] = field(default=lambda _name, _pid: None)
    reload: Callable[[], Coroutine[Any, Any, None]] | None = None


class Runner:
    """Runs the stages until they are asked to stop, or failed."""

    def __init__(
        self, stages: Sequence[Sequence[Service]], state: StateDir, observer: Observer, warm: WarmWorkers
    ) -> None:
        self._services = {service.name: service for stage in stages for service in stage}
        self._lifecycle = lifecycle.Lifecycle(
            [[service.name for service in stage] for stage in stages],
            limits={name: service.limits for name, service in self._services.items()},
        )
        self._state = state
        self._observer = observer
        self._warm = warm
        self._lives = {name: _Life() for name in self._services}
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self._tasks: set[asyncio.Task[None]] = set()
        self.has_begun = asyncio.Event()
        """Set once the first child was started, or cannot be."""

    @property
    def states(self) -> Mapping[str, lifecycle.State]:
        """Where each service is now."""
        return self._lifecycle.states

    @property
    def restarts(self) -> Mapping[str, int]:
        """How often each service was started again."""
        return self._lifecycle.restarts

    @property
    def is_stopping(self) -> bool:
        """Whether everything is on its way down."""
        return self._lifecycle.is_stopping

    def send(self, service: str, number: signal.Signals) -> None:
        """Send a signal to a service that serves; one that does not would not understand it yet."""
        child = self._lives[service].child
        if child is not None and self.states[service] is lifecycle.State.UP:
            child.signal(number)

    def stop(self) -> None:
        """Ask for an orderly stop; asked a second time, everything is killed."""
        self._events.put_nowait(lifecycle.StopAsked())

    async def run(self) -> str | None:
        """From the first start until everything is gone; why it failed, or None."""
        loop = asyncio.get_running_loop()
        signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        for number in signals:
            loop.add_signal_handler(number, self._signalled, number)
        logs = self._spawn(self._bound_logs())
        try:
            self._events.put_nowait(lifecycle.StartAsked())
            while True:
                event = await self._events.get()
                effects = self._lifecycle.receive(event)
                self._tell(event, effects)
                for effect in effects:
                    if isinstance(effect, Finish):
                        return effect.failure
                    self._carry_out(effect)
        finally:
            self.has_begun.set()
            for number in signals:
                loop.remove_signal_handler(number)
            for timer in self._timers.values():
                timer.cancel()
            logs.cancel()
            for task in tuple(self._tasks):
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    # --- effects

    def _carry_out(self, effect: Start | Stop | Kill | SetTimer | Announce) -> None:
        match effect:
            case Start(name):
                self._lives[name] = life = _Life()
                life.starting = self._spawn(self._start(self._services[name], life))
            case Stop(name):
                life = self._lives[name]
                life.stopping = self._spawn(self._stop(self._services[name], life))
            case Kill(name):
                self._kill(self._lives[name])
            case SetTimer(name, seconds):
                if name in self._timers:
                    self._timers[name].cancel()
                self._timers[name] = asyncio.get_running_loop().call_later(
                    seconds, self._events.put_nowait, lifecycle.TimerFired(name)
                )
            case Announce():
                self._spawn(self._observer.announce())

    async def _start(self, service: Service, life: _Life) -> None:
        if life.killed:
            self._events.put_nowait(lifecycle.Exited(service.name, f"{service.name} was not started"))
            return
        try:
            child = ChildProcess.spawn(service.spec(), self._warm.take(service.name))
        except Exception as error:  # noqa: BLE001 - whatever it is, the lifecycle must hear of it
            self._events.put_nowait(lifecycle.Exited(service.name, f"{service.name} could not be started: {error}"))
            return
        finally:
            self.has_begun.set()
        life.child = child
        self._state.record_child(service.name, child.pid)
        self._spawn(self._watch(service, life, child))
        try:
            await service.ready(child)
        except SupervisorError as error:
            self._observer.say(str(error))
            child.signal(signal.SIGKILL)  # its exit is what the lifecycle hears of
            return
        life.up_since = time.monotonic()
        self._events.put_nowait(lifecycle.Ready(service.name))

    async def _watch(self, service: Service, life: _Life, child: ChildProcess) -> None:
        detail = await child.obituary()
        if life.starting is not None:
            life.starting.cancel()
        if life.stopping is not None:
            life.stopping.cancel()
        self._state.forget_child(service.name)
        self._observer.child_gone(service.name, child.pid)
        up_seconds = 0.0 if life.up_since is None else time.monotonic() - life.up_since
        self._events.put_nowait(lifecycle.Exited(service.name, detail, up_seconds))

    async def _stop(self, service: Service, life: _Life) -> None:
        if life.up_since is None:  # never served: nothing to finish, so it may go at once
            self._kill(life)
            return
        assert life.child is not None
        await service.quiesce()
        life.child.signal(signal.SIGTERM)

    def _kill(self, life: _Life) -> None:
        life.killed = True
        if life.child is not None:
            life.child.signal(signal.SIGKILL)

    # --- the rest

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._task_done)
        return task

    def _task_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            raise error  # a bug of ours; the loop's exception handler shows it

    def _signalled(self, number: signal.Signals) -> None:
        if number is signal.SIGHUP and self._observer.reload is not None:
            self._spawn(self._observer.reload())
            return
        self._observer.say("stopping; Ctrl-C again kills" if number is signal.SIGINT else f"{number.name}: stopping")
        self.stop()

    def _tell(self, event: Event, effects: tuple[Effect, ...]) -> None:
        """A death that is answered with a pause is news. One that fails the stack is told by who called `run`."""
        for effect in effects:
            if isinstance(event, lifecycle.Exited) and isinstance(effect, SetTimer) and effect.service == event.service:
                self._observer.say(f"{event.detail}\n{event.service} is started again in {effect.seconds:g} seconds")

    async def _bound_logs(self) -> None:
        while True:
            await asyncio.sleep(_LOG_CHECK_SECONDS)
            for log in self._state.logs.glob("*.log"):
                bound_log(log)
