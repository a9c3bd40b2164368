"""Trainings by several processes, of which one is killed when it comes to a chosen phase; for ``kill_resume.py``.

``hakg train --processes N`` runs in a process that is forked from one that has imported everything, and so do the
processes that it starts: they are forked in place of new interpreters, which saves most of the seconds that a training
of a small data set takes, and nothing else differs. They join over the loopback interface, and are sent a real SIGKILL.
"""

from __future__ import annotations

import contextlib
import dataclasses
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import IO, Any

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["torch", "hakg_dgl.cli", "hakg_dgl.training.trainer", "hakg_dgl.distributed.trainer"])
SECONDS = 60.0
"""Within which all must have ended when one of them is killed."""
PHASES = (
    "starting", "beginning a run", "steps", "evaluation", "writing a model", "writing a state", "end", "leaving",
    "between",
)  # fmt: skip
AIMED = PHASES[1:8]
"""Phases that kills wait for; the others are met by chance."""


@dataclasses.dataclass(frozen=True)
class Aim:
    """When to kill: ``delay`` seconds (a share of the phase's mean time) after the ``nth`` entry into a phase."""

    phase: str
    nth: int
    share: float


class Phases:
    """Tells the phase that a training in this process is in, by cells of memory that others read.

    Parameters
    ----------
    names
        Of all phases.
    phase, refit, seconds
        Cells: the number of the phase, whether it is of a refit, and for each phase its seconds, then its entries.
    aim, reached
        What to tell the pipe ``reached``; None for nothing.
    """

    def __init__(
        self, names: Sequence[str], phase: Any, refit: Any, seconds: Any, aim: Aim | None, reached: Any
    ) -> None:
        self.names, self.phase, self.refit, self.seconds = names, phase, refit, seconds
        self.aim, self.reached = aim, reached
        self.entries: Counter[str] = Counter()

    def within(self, owner: Any, name: str, which: str) -> None:
        """Have calls of a function of a class or module be this phase."""
        inner: Callable[..., Any] = getattr(owner, name)
        number = self.names.index(which)

        def outer(*args: Any, **options: Any) -> Any:
            before, self.phase[0], began = self.phase[0], number, time.perf_counter()
            standing = getattr(getattr(args[0], "session", args[0]), "standing", None)
            if standing is not None:
                self.refit[0] = standing.refit_from is not None
            self.entries[which] += 1
            if self.aim is not None and (which, self.entries[which]) == (self.aim.phase, self.aim.nth):
                self.reached.send(None)
            try:
                return inner(*args, **options)
            finally:
                self.seconds[number] += time.perf_counter() - began
                self.seconds[len(self.names) + number] += 1
                self.phase[0] = before

        setattr(owner, name, outer)

    def begin(self) -> None:
        """All is imported."""
        self.phase[0] = self.names.index("between")


def means(names: Sequence[str], seconds: Sequence[float]) -> dict[str, float]:
    """Mean seconds of each phase that was entered."""
    counts = seconds[len(names) :]
    return {name: seconds[i] / counts[i] for i, name in enumerate(names) if counts[i]}


@dataclasses.dataclass
class Cells:
    """Memory that all processes of a training share: of each its number, phase and so on."""

    numbers: Any
    phases: list[Any]
    refits: list[Any]
    seconds: list[Any]

    @classmethod
    def made(cls, size: int) -> Cells:
        """For so many processes, and the command that starts them, the last of ``numbers``."""
        cell = PROCESSES.Array
        return cls(
            cell("i", size + 1, lock=False),
            *([cell(kind, length, lock=False) for _ in range(size)] for kind, length in (("i", 1), ("b", 1),
              ("d", 2 * len(PHASES)))),
        )  # fmt: skip


class Forked:
    """What a launcher asks of ``subprocess.Popen``, of a child that is forked and calls a function."""

    def __init__(self, environment: Mapping[str, str], log: IO[bytes] | None, work: Callable[[], None]) -> None:
        self.returncode: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            _in_child(environment, log, work)

    def poll(self) -> int | None:
        """The exit code, None while it runs."""
        if self.returncode is None:
            found, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if found else None
        return self.returncode

    def wait(self) -> int:
        """The exit code, when it has ended."""
        while self.poll() is None:
            time.sleep(0.01)
        assert self.returncode is not None
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)


def _in_child(environment: Mapping[str, str], log: IO[bytes] | None, work: Callable[[], None]) -> None:
    code = 1
    try:
        os.setsid()
        os.environ.clear()
        os.environ.update(environment)
        if log is not None:
            _write_to(log)
        work()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _write_to(log: IO[bytes]) -> None:
    """Have this process write to a file, and read nothing."""
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    os.dup2(log.fileno(), 1)
    os.dup2(log.fileno(), 2)


def _launch(arguments: list[str], cells: Cells, log: Path, victim: int, aim: Aim | None, reached: Any) -> None:
    """In a process of its own: ``hakg train --processes N``, whose processes are forked from this one."""
    import torch
    from tqdm import tqdm

    import hakg_dgl.distributed.launch as launch

    torch.set_num_threads(1)
    tqdm.set_lock(threading.RLock())  # its own is for several processes, and a kill would leave it behind
    size = len(cells.phases)
    cells.numbers[size] = os.getpid()

    class ForkedProcesses(launch.Launched):
        def start(
            self, command: Sequence[str], environment: Mapping[str, str], log: IO[bytes] | None
        ) -> subprocess.Popen[bytes]:
            rank = int(environment["RANK"])
            aims = aim if rank == min(victim, size - 1) else None
            return Forked(environment, log, lambda: _rank(command[3:], rank, cells, aims, reached))  # type: ignore[return-value]

    launch.Launched = ForkedProcesses  # type: ignore[misc]
    with log.open("wb") as told:
        _write_to(told)
    import_module("hakg_dgl.cli").main(arguments, prog_name="hakg")


def _rank(arguments: Sequence[str], rank: int, cells: Cells, aim: Aim | None, reached: Any) -> None:
    """One of the processes that train."""
    from hakg_dgl.distributed.saving import SharedFiles
    from hakg_dgl.distributed.session import DistributedSession
    from hakg_dgl.distributed.trainer import DistributedTrainer
    from hakg_dgl.distributed.watch import Watch
    from hakg_dgl.training.loop import EpochSteps

    cells.numbers[rank] = os.getpid()
    phases = Phases(PHASES, cells.phases[rank], cells.refits[rank], cells.seconds[rank], aim, reached)
    hooks = ((DistributedTrainer, "_open"), (EpochSteps, "over"), (DistributedSession, "measure"),
             (SharedFiles, "save_model"), (SharedFiles, "save_state"), (DistributedTrainer, "_finish"),
             (Watch, "stop"))  # fmt: skip
    for (owner, name), which in zip(hooks, AIMED, strict=True):
        phases.within(owner, name, which)
    phases.begin()
    import_module("hakg_dgl.cli").main(list(arguments), prog_name="hakg")


@dataclasses.dataclass
class Ended:
    """How a training by several processes came to its end.

    Attributes
    ----------
    killed
        Whether one of them was.
    who, phase
        Which (the command that started them has no number), and what it was doing.
    seconds
        From the kill until all had ended.
    wrong
        What should not have been.
    means
        Mean seconds of the first process in each phase.
    """

    killed: bool
    who: str
    phase: str
    seconds: float
    wrong: list[str]
    means: dict[str, float]


def train(
    arguments: list[str], size: int, log: Path, aim: Aim | None = None, victim: int = 0,
    known: Mapping[str, float] | None = None,
) -> Ended:  # fmt: skip
    """Train by ``size`` processes; with an aim, kill one of them then, unless all come to their end before.

    Parameters
    ----------
    arguments
        Of ``hakg``.
    size
        How many processes.
    log
        File for what is said.
    aim, victim
        When, and which; ``size`` for the command that started them, when the last one is in the phase.
    known
        Mean seconds of phases.
    """
    cells = Cells.made(size)
    hears, reached = PROCESSES.Pipe(duplex=False)
    command = PROCESSES.Process(target=_launch, args=(arguments, cells, log, victim, aim, reached))
    command.start()
    reached.close()
    began, killed = time.monotonic(), False
    if aim is not None:
        with contextlib.suppress(EOFError):  # they came to their end
            if not hears.poll(20 * SECONDS):
                raise SystemExit(f"hakg {' '.join(arguments)} does not end; it said {log.read_text()[-500:]!r}")
            hears.recv()
            time.sleep(aim.share * (known or {}).get(aim.phase, 0.0))
            began, killed = time.monotonic(), True
            with contextlib.suppress(ProcessLookupError):
                os.kill(cells.numbers[victim], signal.SIGKILL)
    who = "the command" if victim == size else f"process {victim}"
    watched = min(victim, size - 1)
    phase = PHASES[cells.phases[watched][0]] + (", refit" if cells.refits[watched][0] else "")
    command.join(SECONDS if killed else 20 * SECONDS)
    left = running(cells.numbers[:], SECONDS - (time.monotonic() - began))
    seconds = time.monotonic() - began
    wrong = [f"after {seconds:.0f} s process {number} still runs" for number in left]
    for number in left:
        os.kill(number, signal.SIGKILL)
    command.join()
    killed = killed and command.exitcode != 0  # else it had ended already
    wrong += _said_wrong(log.read_text(errors="replace"), command.exitcode, killed, victim, size)
    return Ended(killed, who, phase, seconds, wrong, means(PHASES, cells.seconds[0][:]))


def _said_wrong(said: str, code: int | None, killed: bool, victim: int, size: int) -> list[str]:
    """What is wrong with the exit code and the messages of a command."""
    wrong, errors = [], said.count("Error:")
    if not killed:
        return [] if code == 0 and not errors else [f"exit code {code}: {said[-500:]}"]
    if victim == size:
        return [] if errors <= 1 else [f"{errors} messages: {said[-500:]}"]
    if errors != 1:
        wrong.append(f"{errors} messages: {said[-500:]}")
    if f"process {victim} of {size} was ended by SIGKILL" not in said or "Continue with --resume" not in said:
        wrong.append(f"the message is {said[-500:]!r}")
    return wrong


def running(numbers: Sequence[int], seconds: float) -> list[int]:
    """Those of some processes that have not ended after so many seconds; returns at once when all have."""
    deadline = time.monotonic() + seconds
    while left := [number for number in numbers if number and _runs(number)]:
        if time.monotonic() > deadline:
            return left
        time.sleep(0.05)
    return []


def _runs(number: int) -> bool:
    """Whether a process is there, and no zombie."""
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
