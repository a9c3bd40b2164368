"""Evaluation by several processes of this machine, which share what they read; the numbers are those of one process.

One process makes the ranking vectors and writes them to files that all map into memory; helpers load no model and no
data set. Each process ranks block after block of users, the blocks that one process would rank, and writes the lists to
a file; the metrics are computed from all lists, as one process does. A process that has done its share goes on with the
blocks that are left, so nobody waits for a process that is slow, hangs or is gone.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from hakg_dgl.errors import ConfigError
from hakg_dgl.ranking import topk
from hakg_dgl.ranking.beyond_hits import RankedPairs
from hakg_dgl.ranking.evaluation import Evaluation, Evaluator
from hakg_dgl.ranking.sampled import AmongSampled
from hakg_dgl.ranking.shared_vectors import (
    has_vectors,
    mapped_array,
    mapped_arrays,
    mapped_scorer,
    save_array,
    save_arrays,
    save_vectors,
)
from hakg_dgl.ranking.topk import Scorer, masked_topk
from hakg_dgl.ranking.yardsticks import RandomScorer, SameForAllScorer

_PROCESSES = multiprocessing.get_context("spawn")
_LISTS, _VALUES, _DONE = "lists.bin", "values.bin", "done.bin"


class Together:
    """Evaluates scorers as an evaluator does, by several processes; a context that ends them.

    Parameters
    ----------
    evaluator
        What is measured.
    processes
        How many, with this one.
    open_scorer
        Makes the scorer in a process, where it has no vectors that can be shared: a function that can be sent there,
        such as a :func:`functools.partial` of :func:`~hakg_dgl.training.loading.open_scorer`.

    Attributes
    ----------
    lost
        Why helpers ended early, a sentence each; their work was done by the others.

    Examples
    --------
    >>> with Together(evaluator, 4) as ranked:  # doctest: +SKIP
    ...     found = ranked(model.scorer())
    """

    def __init__(self, evaluator: Evaluator, processes: int, open_scorer: Callable[[], Scorer] | None = None) -> None:
        self.evaluator: Evaluator = evaluator
        self.processes: int = processes
        self.lost: list[str] = []
        self._open = open_scorer
        self._helpers: list[tuple[Any, Connection]] = []
        self._jobs = 0

    def __enter__(self) -> Together:
        """Start the helpers."""
        if self.processes > 1:
            self._folder = tempfile.TemporaryDirectory(prefix="hakg-ranking-")
            save_arrays(Path(self._folder.name), self.evaluator.wanted()._asdict())
            threads = max(1, torch.get_num_threads() // self.processes)
            for _ in range(self.processes - 1):
                ours, theirs = _PROCESSES.Pipe()
                helper = _PROCESSES.Process(target=_help, args=(theirs, os.getpid(), threads), daemon=True)
                helper.start()
                theirs.close()
                self._helpers.append((helper, ours))
            self._before = torch.get_num_threads()
            torch.set_num_threads(threads)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the helpers."""
        if self.processes == 1:
            return
        for number, (helper, ours) in enumerate(self._helpers, start=2):
            if helper.exitcode is not None:
                why = _why(helper.exitcode, ours)
                self.lost.append(f"process {number} of {self.processes} ended early, the others did its work: {why}")
            helper.kill()
        for helper, ours in self._helpers:
            helper.join()
            ours.close()
        torch.set_num_threads(self._before)
        self._folder.cleanup()

    def __call__(self, scorer: Scorer) -> Evaluation:
        """What the evaluator finds for a scorer; errors are those of :class:`Evaluator`.

        Raises
        ------
        ConfigError
            If the scorer does not compute on the CPU.
        """
        if self.processes == 1:
            return self.evaluator(scorer)
        self.evaluator.require_fits(scorer)
        shared = Path(self._folder.name)
        folder = shared / str(self._jobs)
        folder.mkdir()
        self._jobs += 1
        about = _described(scorer, folder)
        if about["scorer"] == "vectors":
            scorer = mapped_scorer(folder)  # lets go of the vectors that were handed over
        n, block = len(self.evaluator.users), max(1, topk.SCORES_PER_BLOCK // max(1, scorer.n_items))
        asked = self.evaluator
        about |= {"n": n, "block": block, "k": asked.longest, "auc": "auc" in asked.also,
                  "sampled": asked.sampled, "sample_seed": asked.sample_seed, "processes": self.processes}  # fmt: skip
        (folder / "job.json").write_text(json.dumps(about))
        for number, (helper, ours) in enumerate(self._helpers, start=1):
            if helper.is_alive():
                try:
                    ours.send((str(folder), number, self._open if about["scorer"] == "opened" else None))
                except OSError:  # it is gone
                    continue
        work = _Work.opened(folder, lambda: scorer)
        for place in work.places(0):
            work.rank(place)
        return asked.of_lists(*work.found())


def _why(code: int, ours: Connection) -> str:
    """Why a helper has ended."""
    if code < 0:
        return signal.Signals(-code).name
    try:
        return str(ours.recv()) if ours.poll() else f"exit code {code}"
    except (EOFError, OSError):
        return f"exit code {code}"


def _described(scorer: Scorer, folder: Path) -> dict[str, Any]:
    """What a process makes the scorer of."""
    sizes = {"n_users": scorer.n_users, "n_items": scorer.n_items}
    if has_vectors(scorer):
        save_vectors(folder, scorer)
        return {"scorer": "vectors", **sizes}
    if isinstance(scorer, SameForAllScorer):
        save_array(folder, "row", scorer.row)
        return {"scorer": "row", **sizes}
    if isinstance(scorer, RandomScorer):
        return {"scorer": "random", "seed": scorer.seed, **sizes}
    device = getattr(getattr(scorer, "item_vectors", None), "device", None)
    if device is not None and device.type != "cpu":
        raise ConfigError(f"several processes rank on the CPU, and the model lies on {device}; set the device to cpu")
    return {"scorer": "opened", **sizes}


def _help(jobs: Connection, starter: int, threads: int) -> None:
    """In a process of its own: work at one job after another, until what started it is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # what started this process ends it
    torch.set_num_threads(threads)
    try:
        while True:
            name, number, make = jobs.recv()
            _help_with(name, number, make, starter)
    except (EOFError, ConnectionError):  # what started it is gone
        return
    except Exception as error:
        with suppress(OSError):
            jobs.send(str(error))
        raise SystemExit(1) from None


def _help_with(name: str, number: int, make: Callable[[], Scorer] | None, starter: int) -> None:
    """Work at a job."""
    folder = Path(name)
    about = json.loads((folder / "job.json").read_text())
    if about["scorer"] == "opened" and make is None:
        return
    work = _Work.opened(folder, make or partial(_made, about, folder))
    for place in work.places(number):
        if os.getppid() != starter:
            return
        work.rank(place)


def _made(about: dict[str, Any], folder: Path) -> Scorer:
    if about["scorer"] == "vectors":
        return mapped_scorer(folder)
    if about["scorer"] == "row":
        return SameForAllScorer(about["n_users"], mapped_array(folder, "row"))
    return RandomScorer(about["n_users"], about["n_items"], about["seed"])


@dataclass
class _Work:
    """A job: users in blocks, and the files in which processes write what they found and what is done.

    Files are written by position, first what was found and then that it is done. Who computes a block changes nothing,
    and a block that two have computed has the same lists.
    """

    folder: Path
    about: dict[str, Any]
    scorer: Scorer
    users: Tensor
    seen: tuple[Tensor, Tensor] | None
    candidates: Tensor | None
    relevant: tuple[Tensor, Tensor]

    @classmethod
    def opened(cls, folder: Path, make: Callable[[], Scorer]) -> _Work:
        about = json.loads((folder / "job.json").read_text())
        names = ("users", "seen_indptr", "seen_items", "candidates", "relevant_indptr", "relevant_items")
        users, indptr, items, candidates, relevant, of_them = mapped_arrays(folder.parent, *names).values()
        assert users is not None
        assert relevant is not None
        assert of_them is not None
        seen = None if indptr is None or items is None else (indptr, items)
        for name, size in ((_LISTS, 8 * about["n"] * about["k"]), (_VALUES, 8 * about["n"]),
                           (_DONE, -(-about["n"] // about["block"]))):  # fmt: skip
            with (folder / name).open("ab") as file:
                if file.tell() < size:
                    file.truncate(size)
        scorer = make()
        if about["sampled"] is not None:
            counts = torch.zeros(about["n_users"], dtype=torch.int64)
            counts[users] = relevant.diff()
            of_all = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
            scorer = AmongSampled(scorer, (of_all, of_them), seen, about["sampled"], about["sample_seed"], candidates)
        return cls(folder, about, scorer, users, seen, candidates, (relevant, of_them))

    def places(self, number: int) -> Iterator[int]:
        """The blocks of a process, then those of others that are not done."""
        n_blocks = -(-self.about["n"] // self.about["block"])
        yield from (place for place in range(number, n_blocks, self.about["processes"]) if not self._is_done(place))
        yield from (place for place in reversed(range(n_blocks)) if not self._is_done(place))

    def rank(self, place: int) -> None:
        """Rank for a block of users, and write what was found."""
        first = place * self.about["block"]
        users = self.users[first : first + self.about["block"]]
        pairs = None
        if self.about["auc"]:
            pairs = RankedPairs(*(part.numpy() for part in (self.users, *self.relevant)))
        items, _ = masked_topk(self.scorer, users, self.about["k"], self.seen, self.candidates, watch=pairs)
        self._write(_LISTS, first * self.about["k"] * 8, items.cpu().contiguous().numpy().tobytes())
        if pairs is not None:
            self._write(_VALUES, first * 8, pairs.values[first : first + len(users)].numpy().tobytes())
        self._write(_DONE, place, b"\1")

    def found(self) -> tuple[Tensor, RankedPairs | None]:
        """The lists of all users, and what their whole rankings were like if that is asked for."""
        lists = torch.frombuffer(bytearray((self.folder / _LISTS).read_bytes()), dtype=torch.int64)
        pairs = None
        if self.about["auc"]:
            pairs = RankedPairs(*(part.numpy() for part in (self.users, *self.relevant)))
            values = bytearray((self.folder / _VALUES).read_bytes())
            pairs.values = torch.frombuffer(values, dtype=torch.float64)
        return lists.view(self.about["n"], self.about["k"]), pairs

    def _is_done(self, place: int) -> bool:
        with (self.folder / _DONE).open("rb") as file:
            file.seek(place)
            return file.read(1) == b"\1"

    def _write(self, name: str, at: int, content: bytes) -> None:
        with (self.folder / name).open("r+b", buffering=0) as file:
            file.seek(at)
            file.write(content)
