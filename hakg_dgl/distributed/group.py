"""Joining the processes of a training, and what they say when one of them is gone."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import timedelta
from importlib.metadata import PackageNotFoundError, version

import torch
import torch.distributed as dist

from hakg_dgl.data.dataset import Dataset
from hakg_dgl.distributed.lost import LOST_EXIT, LostProcessError
from hakg_dgl.distributed.starter import quiet
from hakg_dgl.distributed.watch import Watch
from hakg_dgl.errors import ConfigError
from hakg_dgl.models.settings import Settings

MEETING = timedelta(seconds=50)
"""How long a process waits for the others to come."""
_LATE = 3.0
"""Seconds after which a process ends that should have given up waiting."""
ATTEMPT = "TORCHELASTIC_RESTART_COUNT"
"""In the environment, how often torchrun has started the processes anew."""
_SHOWN = 64
"""Bytes of what must be alike in all processes that are told."""


def in_group(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether torchrun, or ``--processes``, started this process as one of several."""
    return {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"} <= environment.keys()


def is_first(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether this process writes: the first of several, or one alone."""
    return not in_group(environment) or environment["RANK"] == "0"


def started_again(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether torchrun started this process anew (``--max-restarts``) after one of them had failed."""
    return in_group(environment) and environment.get(ATTEMPT, "0") != "0"


@contextmanager
def joined(device: torch.device | None = None) -> Iterator[None]:
    """Be one of the processes that the environment names.

    Tensors on CPUs are exchanged by gloo, and those on a CUDA device, of which each process of a host has one, by NCCL.

    Parameters
    ----------
    device
        Where the model lies; CPU by default.

    Raises
    ------
    LostProcessError
        In place of what is raised when another process is gone or does not answer.
    """
    watch: Watch | None = None
    try:
        _meet(_backend(device))
        watch = Watch(dist.get_rank(), dist.get_world_size())
        yield
    except LostProcessError as error:
        if quiet():
            raise SystemExit(LOST_EXIT) from error
        raise
    except (RuntimeError, dist.DistError) as error:
        if "address already in use" in str(error).lower():
            raise ConfigError(
                f"port {os.environ['MASTER_PORT']}, where the processes were to meet, is used by another program; "
                "start again (with torchrun: and --master-port with another number)"
            ) from error
        if not _is_lost(error):
            raise
        if quiet():
            raise SystemExit(LOST_EXIT) from error
        raise LostProcessError(
            f"process {os.environ['RANK']} of {os.environ['WORLD_SIZE']} has lost another one, which was ended or "
            "cannot be reached\nContinue with --resume; training goes on from the last saved state."
        ) from error
    finally:
        if watch is not None:
            watch.stop()
        if dist.is_initialized():
            dist.destroy_process_group()


def _meet(backend: str) -> None:
    """Wait for the other processes, and end this one if nobody answers where they meet: that may take for ever."""
    late = threading.Timer(MEETING.total_seconds() + _LATE, _nobody_came)
    late.daemon = True
    late.start()
    try:
        # torchrun keeps its store when it starts processes anew, with the addresses of those that are gone.
        store, rank, size = next(dist.rendezvous("env://", timeout=MEETING))  # type: ignore[attr-defined]
        store = dist.PrefixStore(f"attempt_{os.environ.get(ATTEMPT, '0')}", store)  # type: ignore[attr-defined]
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=MEETING)
    finally:
        late.cancel()


def _nobody_came() -> None:
    if not quiet():
        where = f"{os.environ['MASTER_ADDR']}, port {os.environ['MASTER_PORT']}"
        who = f"process {os.environ['RANK']} of {os.environ['WORLD_SIZE']}"
        text = f"Error: {who} has met no other one: what listens on {where} does not answer\n"
        with suppress(OSError):
            os.write(sys.stderr.fileno(), text.encode())
    os._exit(LOST_EXIT)  # the main thread may wait for ever


def _backend(device: torch.device | None) -> str:
    if device is None or device.type != "cuda":
        return "gloo"
    torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    return "cpu:gloo,cuda:nccl"


def _is_lost(error: Exception) -> bool:
    text = str(error).lower()
    known = ("connection closed", "connection reset", "timed out", "timeout", "broken pipe", "connection refused")
    return isinstance(error, dist.DistError) or any(words in text for words in known)


def require_alike(dataset: Dataset, settings: Settings) -> None:
    """Raise ConfigError, in all processes, unless all have the same data, settings and version of the package."""
    if not dist.is_initialized():
        return
    about = {
        "data": dataset.digest[:12],
        "settings": hashlib.sha256(json.dumps(settings.to_dict(), sort_keys=True).encode()).hexdigest()[:12],
        "version of hakg_dgl": _version("hakg_dgl"),
        "PyTorch": f"{torch.__version__} ({_version('torch')})",
    }
    mine = torch.stack([_padded(value) for value in about.values()])
    found = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
    dist.all_gather(found, mine)
    for rank, theirs in enumerate(found):
        wrong = [
            f"{name} ({_text(other)}, there {_text(first)})"
            for name, other, first in zip(about, theirs, found[0], strict=True)
            if not torch.equal(other, first)
        ]
        if wrong:
            raise ConfigError(
                f"process {rank} has other {' and '.join(wrong)} than process 0; start all of them with the same data, "
                "settings and versions"
            )


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _padded(text: str) -> torch.Tensor:
    return torch.tensor(list(text.encode()[:_SHOWN].ljust(_SHOWN, b"\0")), dtype=torch.uint8)


def _text(padded: torch.Tensor) -> str:
    return bytes(padded.tolist()).rstrip(b"\0").decode(errors="replace")
