"""Kills training at random moments, resumes it, and compares the end with that of an uninterrupted run.

    python benchmarks/kill_resume.py --kills 200 --fresh 20 --json kill_resume.json

Every kill is a SIGKILL to a process that runs ``hakg train``, on a demo or on ``--data``. Most of these processes are
forked from one that has imported everything, and are killed a random time after they enter a chosen phase (the steps of
an epoch, an evaluation, the write of a checkpoint, ...); of those, the phase at death is known. With ``--fresh N``, N
more are new interpreters, killed at any time between their start and their end. A run is resumed after each kill and
killed again; after ``--each`` kills it is let come to its end. Then its metrics, line by line, its result and its
weights must equal, bit by bit, those of a run without a kill, and no temporary file may be left. Exit code 1 if one
differs.

    python benchmarks/kill_resume.py --processes 2 --kills 50 --models hakg lightgcn bpr-mf --json kill_resume.json

trains by several processes, and kills one of them, or the command that started them: with ``--kills`` in a chosen phase
(``killed_ranks.py``), with ``--fresh`` new interpreters at any time. All of them have to end within a minute, with one
message. Every kill is told when it is made, and the file of results is written then, so that it has what was done when
this is stopped; results of other numbers of processes in it stay.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import killed_ranks
import torch
from killed_ranks import PROCESSES, Aim, Phases, means
from measure import RESULTS, describe_machine, machine_facts, markdown, write_results

from hakg_dgl import RunFolder, Settings
from hakg_dgl.training.loop import EpochSteps
from hakg_dgl.training.model_file import load_model_tensors
from hakg_dgl.training.session import Session
from hakg_dgl.training.trainer import Trainer

PHASES = ("starting", "beginning a run", "steps", "evaluation", "checkpoint", "line of metrics", "end", "between")
AIMED = PHASES[1:7]
"""Phases that kills wait for; the others are met by chance."""
SMALL = ["epochs=6", "patience=6", "refit=true", "dim=8", "layers=1", "negatives=10", "batch_size=160", "lr=0.01"]


def command(data: Path, run: Path, kind: str, settings: list[str], processes: int = 0) -> list[str]:
    """Arguments of ``hakg`` that start a run, or continue it if there is one."""
    resume = ["--resume"] if RunFolder(run).exists() else ["--set", f"kind={kind}"]
    given = [] if resume == ["--resume"] else [word for setting in settings for word in ("--set", setting)]
    several = ["--processes", str(processes)] if processes else []
    return ["train", str(data), "--out", str(run), *resume, *given, *several]


def _train(arguments: list[str], phase: Any, refit: Any, seconds: Any, aim: Aim | None, reached: Any) -> None:
    """In a process of its own: ``hakg train`` that tells the phase it is in, and when it comes to the one aimed at."""
    from tqdm import tqdm

    torch.set_num_threads(1)
    tqdm.set_lock(threading.RLock())  # its own is for several processes, and a kill would leave it behind
    phases = Phases(PHASES, phase, refit, seconds, aim, reached)
    hooks = ((RunFolder, "create"), (EpochSteps, "over"), (Session, "measure"),
             (RunFolder, "save_tensors"), (RunFolder, "append_metrics"), (Trainer, "_finish"))  # fmt: skip
    for (owner, name), which in zip(hooks, AIMED, strict=True):
        phases.within(owner, name, which)
    phases.begin()
    with open(os.devnull, "w") as nothing, contextlib.redirect_stdout(nothing), contextlib.redirect_stderr(nothing):
        import_module("hakg_dgl.cli").main(arguments, prog_name="hakg")


@dataclasses.dataclass
class Attempt:
    """One process: whether it was killed, in which phase, and what it took in each."""

    killed: bool
    phase: str
    refit: bool
    code: int | None
    seconds: dict[str, float]


def attempt(arguments: list[str], aim: Aim | None = None, known: dict[str, float] | None = None) -> Attempt:
    """Train in a forked process; with an aim, kill it then, unless it comes to its end before."""
    phase, refit = PROCESSES.Array("i", 1, lock=False), PROCESSES.Array("b", 1, lock=False)
    seconds = PROCESSES.Array("d", 2 * len(PHASES), lock=False)
    hears, reached = PROCESSES.Pipe(duplex=False)
    process = PROCESSES.Process(target=_train, args=(arguments, phase, refit, seconds, aim, reached))
    process.start()
    reached.close()
    if aim is not None:
        with contextlib.suppress(EOFError):  # it came to its end
            hears.recv()
            time.sleep(aim.share * (known or {}).get(aim.phase, 0.0))
            process.kill()
    process.join()
    found = means(PHASES, seconds[:])
    return Attempt(process.exitcode == -9, PHASES[phase[0]], bool(refit[0]), process.exitcode, found)


def processes_of(number: int) -> list[int]:
    """The processes that a process has started, as far as it has."""
    children = Path(f"/proc/{number}/task/{number}/children")
    return [int(child) for child in children.read_text().split()] if children.exists() else []


def attempt_fresh(arguments: list[str], delay: float | None, victim: float | None = None) -> tuple[bool, float]:
    """``hakg train`` in a new interpreter, killed after a delay; whether it was, and its seconds.

    With a ``victim`` (0 to 1) one of its processes is killed, or itself, and all must end within a minute.
    """
    began, environment = time.perf_counter(), {**os.environ, "OMP_NUM_THREADS": "1"}
    line = [sys.executable, "-m", "hakg_dgl.cli", *arguments]
    with subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment) as process:
        try:
            _, stderr = process.communicate(timeout=delay)
        except subprocess.TimeoutExpired:
            children = [] if victim is None else processes_of(process.pid)
            everyone = [process.pid, *children]
            with contextlib.suppress(ProcessLookupError):
                os.kill(everyone[int((victim or 0.0) * len(everyone))], signal.SIGKILL)
            process.communicate(timeout=60)
            _wait_for(children, 60.0)
            return True, time.perf_counter() - began
    if process.returncode:
        raise SystemExit(f"hakg {' '.join(arguments)} ended with exit code {process.returncode}: {stderr.decode()}")
    return False, time.perf_counter() - began


def _wait_for(numbers: list[int], seconds: float) -> None:
    """Return when these processes have ended; SystemExit if one has not after so long."""
    deadline = time.monotonic() + seconds
    while left := [number for number in numbers if Path(f"/proc/{number}").exists()]:
        if time.monotonic() > deadline:
            raise SystemExit(f"processes {left} outlive the command that started them")
        time.sleep(0.1)


def differences(run: Path, expected: Path) -> list[str]:
    """What a finished run has otherwise than another one; settings and weights bit by bit."""
    mine, theirs = RunFolder(run), RunFolder(expected)
    different = []
    lines = [
        [{k: v for k, v in line.items() if k != "seconds"} for line in folder.metrics] for folder in (mine, theirs)
    ]
    if lines[0] != lines[1]:
        different.append("metrics.jsonl")
    for key in ("best_epoch", "epochs_run", "stopped", "metrics", "refit", "settings"):
        if mine.result[key] != theirs.result[key]:
            different.append(f"{key} of result.json")
    ours, others = (load_model_tensors(folder)[0] for folder in (mine, theirs))
    if ours.keys() != others.keys() or not all(torch.equal(ours[name], others[name]) for name in others):
        different.append("weights")
    return different + [f"left: {file.name}" for file in run.iterdir() if file.name.startswith(".")]


class Campaign:
    """Kills of runs on one data set, and what came of them.

    Parameters
    ----------
    data, folder
        The data set, and where runs are made.
    kind, settings
        Of model, and other settings.
    seed
        Of the moments.
    processes
        That train together; 0 for one, without ``--processes``.
    tell
        Called after every kill and every end of a run.
    """

    def __init__(
        self, data: Path, folder: Path, kind: str, settings: list[str], seed: int, processes: int = 0,
        tell: Callable[[Campaign, str], None] = lambda campaign, text: None,
    ) -> None:  # fmt: skip
        self.processes, self.tell = processes, tell
        self.data, self.folder, self.kind, self.settings = data, folder, kind, settings
        self.chance, self.runs = random.Random(f"{seed} {kind}"), 0
        self.phases: Counter[str] = Counter()
        self.victims: Counter[str] = Counter()
        self.longest, self.wrong = 0.0, list[str]()
        self.expected = folder / f"{kind}-whole"
        self.means = self._end(self.expected)
        if self.wrong:
            raise SystemExit(f"training {kind} without a kill: {self.wrong[0]}")
        self.epochs = len(RunFolder(self.expected).metrics)

    def arguments(self, run: Path) -> list[str]:
        """Of ``hakg``, to begin or continue a run."""
        return command(self.data, run, self.kind, self.settings, self.processes)

    def next_run(self) -> Path:
        self.runs += 1
        return self.folder / f"{self.kind}-{self.runs}"

    def aim(self) -> Aim:
        """A phase, an entry into it that a resumed run may still come to, and a share of its mean time."""
        phase = self.chance.choice(killed_ranks.AIMED if self.processes else AIMED)
        once = ("beginning a run", "end", "leaving")
        often = ("checkpoint", "writing a state")
        most = 1 if phase in once else self.epochs if phase in often else max(1, self.epochs // 2)
        return Aim(phase, self.chance.randint(1, most), self.chance.random())

    def kill(self, kills: int, each: int) -> None:
        """Make this many kills, ``each`` a run."""
        while kills:
            run, todo, tries = self.next_run(), min(each, kills), 0
            while todo and tries < 10 * each:
                tries += 1
                phase = self._kill_in_process(run) if not self.processes else self._kill_one_of_several(run)
                if not phase:  # it came to its end before the moment aimed at
                    break
                self._count(phase, run)
                todo, kills = todo - 1, kills - 1
            self._finish(run)

    def _kill_in_process(self, run: Path) -> str:
        """Kill a training by one process; the phase in which it was, or nothing."""
        end = attempt(self.arguments(run), self.aim(), self.means)
        if end.killed:
            return f"{end.phase}, refit" if end.refit else end.phase
        self.wrong += [f"{run.name}: exit code {end.code}"] if end.code else []
        return ""

    def _kill_one_of_several(self, run: Path) -> str:
        """Kill one of several processes, or once in eight times the command; the phase in which it was, or nothing."""
        n = self.processes
        victim = n if self.chance.random() < 0.125 else self.chance.randrange(n)
        end = killed_ranks.train(self.arguments(run), n, self.folder / "log", self.aim(), victim, self.means)
        self.wrong += [f"{run.name}, {end.who} in {end.phase}: {what}" for what in end.wrong]
        if not end.killed:
            return ""
        self.victims[end.who] += 1
        self.longest = max(self.longest, end.seconds)
        return end.phase

    def kill_fresh(self, kills: int, each: int) -> None:
        """Make this many kills of new interpreters."""
        if not kills:
            return
        _, seconds = attempt_fresh(self.arguments(self.folder / f"{self.kind}-fresh"), None)
        while kills:
            run = self.next_run()
            for _ in range(min(each, kills)):
                delay, victim = self.chance.uniform(0.2, seconds), self.chance.random() if self.processes else None
                killed, _ = attempt_fresh(self.arguments(run), delay, victim)
                if not killed:
                    break
                kills -= 1
                self._count("any, new interpreter", run)
            self._finish(run)

    def _count(self, phase: str, run: Path) -> None:
        self.phases[phase] += 1
        self.tell(self, f"{self.kind}, kill {self.phases.total()}, of {run.name}: {phase}")

    def _end(self, run: Path) -> dict[str, float]:
        """Train to the end; mean seconds of phases."""
        if self.processes:
            ended = killed_ranks.train(self.arguments(run), self.processes, self.folder / "log")
            self.wrong += [f"{run.name}: {what}" for what in ended.wrong]
            return ended.means
        end = attempt(self.arguments(run))
        self.wrong += [f"{run.name}: exit code {end.code}"] if end.code else []
        return end.seconds

    def _finish(self, run: Path) -> None:
        before = len(self.wrong)
        self._end(run)
        if len(self.wrong) == before:
            self.wrong += [f"{run.name}: {what}" for what in differences(run, self.expected)]
        what = "; ".join(self.wrong[before:]) or "as the one without a kill"
        self.tell(self, f"{self.kind}, {run.name} ended: {what}")

    def numbers(self) -> dict[str, Any]:
        """For the file of results."""
        found = {"runs": self.runs, "kills": dict(self.phases), "wrong": self.wrong}
        if self.processes:
            found |= {"killed": dict(self.victims), "most_seconds_to_end": self.longest}
        return found


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200, help="in chosen phases, over all models")
    parser.add_argument("--fresh", type=int, default=0, help="further ones, of new interpreters")
    parser.add_argument("--processes", type=int, default=0, help="train by so many")
    parser.add_argument("--each", type=int, default=4, help="kills of a run before it is let come to its end")
    parser.add_argument("--data", type=Path, help="folder made by hakg preprocess; the demo by default")
    parser.add_argument("--models", nargs="+", default=["hakg", "lightgcn"], choices=["hakg", "bpr-mf", "lightgcn"])
    parser.add_argument("--set", nargs="*", default=[], dest="overrides", metavar="KEY=VALUE")
    parser.add_argument("--seed", type=int, default=2020)
    parser.add_argument("--json", type=Path, help="also write the numbers (a bare name: into benchmarks/results)")
    given = parser.parse_args(arguments)
    began, n = time.perf_counter(), len(given.models)
    done: dict[str, Campaign] = {}

    def tell(campaign: Campaign, text: str) -> None:
        print(f"{time.perf_counter() - began:7.1f} s  {text}", file=sys.stderr, flush=True)
        done[campaign.kind] = campaign
        if given.json is not None:
            write(given, list(done.values()))

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = given.data or demo(folder / "data")
        for place, kind in enumerate(given.models):
            small = [setting for setting in SMALL if setting.partition("=")[0] in Settings(kind).by_section()]
            settings = [*small, *given.overrides]
            campaign = Campaign(data, folder, kind, settings, given.seed, given.processes, tell)
            campaign.kill(given.kills // n + (place < given.kills % n), given.each)
            campaign.kill_fresh(given.fresh // n + (place < given.fresh % n), given.each)
    print(table(list(done.values())), *(what for campaign in done.values() for what in campaign.wrong), sep="\n")
    print(f"\n{time.perf_counter() - began:,.0f} s; {describe_machine(machine_facts(torch.device('cpu')))}")
    return 1 if any(campaign.wrong for campaign in done.values()) else 0


def table(done: list[Campaign]) -> str:
    """Kills by phase, runs, and what went wrong, as Markdown."""
    phases = list(dict.fromkeys(phase for campaign in done for phase in sorted(campaign.phases)))
    rows = [[phase, *(str(campaign.phases[phase]) for campaign in done)] for phase in phases]
    rows.append(["all", *(str(campaign.phases.total()) for campaign in done)])
    rows.append(["runs", *(str(campaign.runs) for campaign in done)])
    rows.append(["runs that ended otherwise", *(str(len({w.partition(":")[0] for w in c.wrong})) for c in done)])
    victims = sorted({victim for campaign in done for victim in campaign.victims})
    rows += [[f"of these, {victim}", *(str(campaign.victims[victim]) for campaign in done)] for victim in victims]
    if victims:
        rows.append(["seconds until all had ended, at most", *(f"{campaign.longest:.1f}" for campaign in done)])
    return markdown(["killed in", *(campaign.kind for campaign in done)], rows)


def write(given: argparse.Namespace, done: list[Campaign]) -> None:
    """Write the file of results; of several processes, beside those of other numbers of processes."""
    file = RESULTS / given.json if given.json.parent == Path() else given.json
    found = json.loads(file.read_text()) if file.exists() else {}
    values: dict[str, Any] = {"models": {campaign.kind: campaign.numbers() for campaign in done}}
    values["settings"] = [*SMALL, *given.overrides]
    device, several = torch.device("cpu"), found.get("several", {})
    if not given.processes:
        write_results(given.json, values | ({"several": several} if several else {}), device)
        return
    line = " ".join(["python benchmarks/kill_resume.py", *sys.argv[1:]])
    several[str(given.processes)] = {"command": line, "machine": machine_facts(device), **values}
    file.write_text(json.dumps(found | {"several": several}, indent=1) + "\n")


def demo(path: Path) -> Path:
    """The generated demo with 60 users, preprocessed, in this folder."""
    from hakg_dgl.data.preprocess import preprocess
    from hakg_dgl.data.synthetic import DemoSettings, generate_demo

    sizes = dataclasses.replace(
        DemoSettings.load(),
        users=60,
        items=50,
        branching=(3, 3, 2),
        makers=8,
        years=5,
        mean_interactions=14.0,
        min_interactions=6,
    )
    preprocess(generate_demo(sizes)).save(path)
    return path


if __name__ == "__main__":
    sys.exit(main())
