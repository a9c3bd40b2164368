"""A pool of real processes: every call is made once, and kills, errors and signals end what they should end."""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from hakg_dgl.errors import ConfigError, HakgError
from hakg_dgl.studies.pool import Ended, run_calls

SOON = 20.0
"""Seconds within which what is to happen soon must have happened, also on a busy machine."""


def add(first: int, second: int) -> tuple[int, int]:
    return os.getpid(), first + second


def fail(error: Exception | int | None) -> int | None:
    """Raise an error, end the process with an exit code, or return."""
    if isinstance(error, Exception):
        raise error
    if error is not None:
        os._exit(error)
    return os.getpid()


class TwoArguments(Exception):
    """An exception that pickle cannot rebuild from its message."""

    def __init__(self, one: str, two: str) -> None:
        super().__init__(f"{one} and {two}")


def fail_with_an_own_error() -> None:
    raise TwoArguments("salt", "pepper")


def wait_for_a_kill(folder: Path, number: int) -> int:
    """Write down which process makes the call; the first one then waits."""
    (folder / f"begun-{number}").write_text(str(os.getpid()))
    if number == 0:
        time.sleep(600)
    return number


def wait_for_a_stop(folder: Path, number: int) -> None:
    try:
        (folder / f"begun-{number}").touch()
        time.sleep(600)
    except KeyboardInterrupt:
        (folder / f"stopped-{number}").touch()
        raise


def names(folder: Path, start: str) -> list[str]:
    return sorted(path.name for path in folder.glob(f"{start}-*"))


def until(happened: Callable[[], object], seconds: float = SOON) -> bool:
    end = time.monotonic() + seconds
    while not happened():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def test_every_call_is_made_once_in_few_new_processes() -> None:
    over: list[Ended] = []
    ticks: list[int] = []
    run_calls(
        add,
        [(number,) for number in range(10)],
        shared=(100,),
        workers=2,
        ended=over.append,
        tick=lambda: ticks.append(len(over)),
    )
    assert sorted(call.number for call in over) == list(range(10))
    assert [call.value[1] for call in sorted(over, key=lambda call: call.number)] == list(range(100, 110))
    processes = {call.value[0] for call in over}
    assert len(processes) <= 2
    assert os.getpid() not in processes
    assert not any(call.killed or call.error for call in over)
    assert ticks[-1] == 10
    assert not multiprocessing.active_children()


def test_each_call_may_have_a_process_of_its_own() -> None:
    over: list[Ended] = []
    run_calls(add, [(1,), (2,), (3,)], shared=(0,), workers=1, fresh=True, ended=over.append)
    assert [call.value[1] for call in over] == [1, 2, 3]
    assert len({call.value[0] for call in over}) == 3
    assert not multiprocessing.active_children()


def test_without_calls_nothing_is_started() -> None:
    run_calls(add, [], workers=3, ended=lambda call: pytest.fail("nothing was called"))


def test_errors_arrive_as_messages_and_the_other_calls_are_made() -> None:
    errors: list[Exception | int | None] = [
        ConfigError("dim = 0 is not allowed"),
        OSError(errno.ENOSPC, "No space left on device", "file"),
        MemoryError("too large"),
        ZeroDivisionError("division by zero"),
        3,
        None,
    ]
    over: dict[int, Ended] = {}
    run_calls(fail, [(error,) for error in errors], workers=1, ended=lambda call: over.update({call.number: call}))
    config, disk, memory, mistake, ended = (over[number].error for number in range(5))
    assert (type(config), str(config)) == (HakgError, "dim = 0 is not allowed")
    assert isinstance(disk, OSError)
    assert (disk.errno, disk.filename) == (errno.ENOSPC, "file")
    assert (type(memory), str(memory)) == (MemoryError, "too large")
    assert isinstance(mistake, RuntimeError)
    assert "in fail\n" in str(mistake)
    assert str(mistake).rstrip().endswith("ZeroDivisionError: division by zero")
    assert "exit code 3" in str(ended)
    assert (over[5].error, over[5].killed) == (None, False)
    assert isinstance(over[5].value, int)


def test_an_error_that_cannot_be_sent_arrives_too() -> None:
    over: list[Ended] = []
    run_calls(fail_with_an_own_error, [()], workers=1, ended=over.append)
    assert "TwoArguments: salt and pepper" in str(over[0].error)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_worker_is_reported_and_another_takes_its_place(tmp_path: Path, number: signal.Signals) -> None:
    over: dict[int, Ended] = {}
    killed: list[int] = []

    def kill() -> None:
        begun = tmp_path / "begun-0"
        if not killed and begun.exists() and begun.read_text():
            killed.append(int(begun.read_text()))
            os.kill(killed[0], number)

    calls = [(place,) for place in range(3)]
    run_calls(
        wait_for_a_kill,
        calls,
        shared=(tmp_path,),
        workers=1,
        ended=lambda call: over.update({call.number: call}),
        tick=kill,
    )
    assert [over[place].killed for place in range(3)] == [True, False, False]
    assert [over[place].value for place in range(3)] == [None, 1, 2]
    assert (tmp_path / "begun-1").read_text() != str(killed[0])
    assert not multiprocessing.active_children()


def test_when_the_caller_gives_up_the_workers_stop(tmp_path: Path) -> None:
    def give_up() -> None:
        if len(names(tmp_path, "begun")) == 2:
            raise HakgError("enough")

    started = time.monotonic()
    with pytest.raises(HakgError, match="enough"):
        run_calls(
            wait_for_a_stop,
            [(number,) for number in range(5)],
            shared=(tmp_path,),
            workers=2,
            ended=lambda call: None,
            tick=give_up,
        )
    assert time.monotonic() - started < SOON
    assert names(tmp_path, "stopped") == ["stopped-0", "stopped-1"]
    assert names(tmp_path, "begun") == ["begun-0", "begun-1"]
    assert not multiprocessing.active_children()


def test_a_pool_in_another_thread_leaves_the_handlers_of_signals_alone() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    over: list[Ended] = []

    def work() -> None:
        run_calls(add, [(1,)], shared=(2,), workers=1, ended=over.append)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert [call.value[1] for call in over] == [3]
    work()
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


PROGRAM = """
import sys
import time
from pathlib import Path
from hakg_dgl.studies.pool import orphaned, run_calls


def work(folder, number):
    try:
        (folder / f"begun-{number}").touch()
        while not orphaned():
            time.sleep(0.05)
    except KeyboardInterrupt:
        (folder / f"stopped-{number}").touch()
        raise
    (folder / f"orphaned-{number}").touch()


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    (folder / "starting-0").touch()
    try:
        run_calls(work, [(n,) for n in range(4)], shared=(folder,), workers=2, ended=lambda call: None)
    except KeyboardInterrupt:
        sys.exit(130)
"""


def program(folder: Path) -> subprocess.Popen[str]:
    """A program with a pool of two processes, in a process group of its own."""
    file = folder / "program.py"
    file.write_text(PROGRAM)
    return subprocess.Popen(
        [sys.executable, str(file), str(folder)],
        cwd=Path(__file__).resolve().parents[1],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1])},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def group_is_empty(process: subprocess.Popen[str]) -> bool:
    try:
        os.killpg(process.pid, 0)
    except ProcessLookupError:
        return True
    return False


@pytest.mark.parametrize(("moment", "count"), [("starting", 1), ("begun", 2)], ids=["starting", "working"])
@pytest.mark.parametrize("delay", [0.0, 0.1, 0.3])
def test_ctrl_c_ends_everything_within_seconds(tmp_path: Path, moment: str, count: int, delay: float) -> None:
    """A terminal sends it to the workers too, which leave it to the parent."""
    with program(tmp_path) as process:
        assert until(lambda: len(names(tmp_path, moment)) == count)
        time.sleep(delay)
        os.killpg(process.pid, signal.SIGINT)
        _, stderr = process.communicate(timeout=SOON)
    assert process.returncode == 130, stderr
    assert stderr == ""
    begun, stopped = ({name.rpartition("-")[2] for name in names(tmp_path, what)} for what in ("begun", "stopped"))
    assert begun <= stopped  # a call may be interrupted before it can say that it has begun
    assert len(stopped) <= 2
    if moment == "begun":
        assert begun == {"0", "1"}
    assert until(lambda: group_is_empty(process))


def test_workers_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    with program(tmp_path) as process:
        assert until(lambda: len(names(tmp_path, "begun")) == 2)
        process.kill()
        process.wait()
        assert until(lambda: len(names(tmp_path, "orphaned")) == 2)
        assert until(lambda: group_is_empty(process))
    assert names(tmp_path, "begun") == ["begun-0", "begun-1"]
