"""Two processes in two network namespaces, as on two hosts, train one model; the numbers are compared with one process.

    sudo python benchmarks/two_hosts.py

Makes two network namespaces of this machine that a virtual cable joins: nothing but that cable connects them, and the
loopback interface of one is not that of the other. Each has a folder of its own with its part of the data and the
owners, and the first one the data set too, which the parts are compared with. ``torchrun`` starts one process in each.
Then one process trains the same model, and both results are compared. With ``--cut SECONDS`` the cable is taken down
after so long instead, and it is told how each process ends. Needs Linux, root and ``ip``. Exit code 1 if a number
differs, 77 without the privileges.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from hakg_dgl import RunFolder
from hakg_dgl.data.edge_blocks import SavedEdges
from hakg_dgl.data.owners import hash_owners
from hakg_dgl.data.part_writing import write_parts
from hakg_dgl.data.parts import part_name
from hakg_dgl.data.preprocess import preprocess
from hakg_dgl.data.synthetic import generate_demo
from hakg_dgl.training.model_file import load_model_tensors

NO_PRIVILEGES = 77
ADDRESSES = ("10.231.7.1", "10.231.7.2")
PORT = "29517"


def ip(*words: str) -> None:
    """Run ``ip``; CalledProcessError if it fails."""
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


@contextmanager
def two_hosts() -> Iterator[tuple[str, str]]:
    """The names of two network namespaces that a cable joins; they are removed at the end."""
    names = f"hakg-{os.getpid()}-0", f"hakg-{os.getpid()}-1"
    ends = f"hk{os.getpid() % 100000}a", f"hk{os.getpid() % 100000}b"
    made: list[str] = []
    try:
        for name in names:
            ip("netns", "add", name)
            made.append(name)
        ip("link", "add", ends[0], "netns", names[0], "type", "veth", "peer", "name", ends[1], "netns", names[1])
        for name, end, address in zip(names, ends, ADDRESSES, strict=True):
            ip("-n", name, "addr", "add", f"{address}/24", "dev", end)
            ip("-n", name, "link", "set", end, "up")
            ip("-n", name, "link", "set", "lo", "up")
        yield names
    finally:
        for name in made:
            ip("netns", "del", name)


def host_folder(folder: Path, data: Path, parts: Path, rank: int) -> Path:
    """What a host has: its part and not the others, the first the data set too."""
    folder.mkdir()
    shutil.copytree(parts, folder / "parts")
    for number in range(2):
        if number != rank:
            shutil.rmtree(folder / "parts" / part_name(number))
    if rank == 0:
        shutil.copytree(data, folder / "data")
    return folder


def train(name: str, folder: Path, rank: int, settings: Sequence[str]) -> subprocess.Popen[str]:
    """Start ``torchrun`` with one process in a namespace."""
    (interface,) = (
        line["ifname"]
        for line in json.loads(subprocess.check_output(["ip", "-n", name, "-j", "addr"]))
        if line["ifname"] != "lo"
    )
    line = ["ip", "netns", "exec", name, sys.executable, "-m", "torch.distributed.run", "--nnodes", "2"]
    line += ["--node-rank", str(rank), "--nproc-per-node", "1", "--master-addr", ADDRESSES[0], "--master-port", PORT]
    line += ["-m", "hakg_dgl.cli", "train", str(folder / "data"), "--out", str(folder / "run")]
    line += ["--parts", str(folder / "parts"), *settings]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": interface}
    with (folder / "log").open("w") as log:
        return subprocess.Popen(line, env=environment, stdout=log, stderr=log, text=True)


def end(processes: Sequence[subprocess.Popen[str]], seconds: float) -> list[int | None]:
    """Wait for processes, and end those that do not end; their exit codes, None for those that were ended."""
    deadline, codes = time.monotonic() + seconds, list[int | None]()
    for process in processes:
        try:
            codes.append(process.wait(max(0.1, deadline - time.monotonic())))
        except subprocess.TimeoutExpired:
            process.kill()
            codes.append(None)
    return codes


def differences(run: Path, expected: Path) -> tuple[float, float]:
    """The largest difference of a parameter relative to the largest parameter, and of a metric of the test split."""
    ours, theirs = (load_model_tensors(RunFolder(path))[0] for path in (run, expected))
    names = ours.keys() & {"user", "item", "entity", "relation"}
    tensors = max(float((ours[name] - theirs[name]).abs().max() / theirs[name].abs().max()) for name in names)
    metrics = [RunFolder(path).result["metrics"]["test"] for path in (run, expected)]
    return tensors, max(abs(metrics[0][name] - metrics[1][name]) for name in metrics[1])


def main(given: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder made by hakg preprocess; the demo by default")
    parser.add_argument("--model", default="hakg", choices=["hakg", "lightgcn", "bpr-mf"])
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--cut", type=float, metavar="SECONDS", help="after the first epoch, take the cable down")
    parser.add_argument("--limit", type=float, default=600.0, help="seconds that a training may take")
    parser.add_argument("--set", nargs="*", default=["dim=16"], dest="overrides", metavar="KEY=VALUE")
    arguments = parser.parse_args(given)
    epochs = 100_000 if arguments.cut is not None else arguments.epochs
    settings = ["--model", arguments.model, "--epochs", str(epochs), "--device", "cpu", "--set", "dtype=float64"]
    settings += [word for setting in arguments.overrides for word in ("--set", setting)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = arguments.data
        if data is None:
            data = folder / "data"
            preprocess(generate_demo()).save(data)
        edges = SavedEdges(data)
        write_parts(edges, hash_owners(edges, 2), folder / "parts", method="hash")
        hosts = [host_folder(folder / f"host-{rank}", data, folder / "parts", rank) for rank in range(2)]
        try:
            with two_hosts() as names:
                processes = [train(names[rank], hosts[rank], rank, settings) for rank in range(2)]
                if arguments.cut is not None:
                    return _cut(names, hosts, processes, arguments)
                codes = end(processes, arguments.limit)
        except (FileNotFoundError, subprocess.CalledProcessError) as error:
            print(f"no network namespaces can be made here: {getattr(error, 'stderr', None) or error}")
            return NO_PRIVILEGES
        if codes != [0, 0]:
            print(f"the processes ended with {codes}", *((host / "log").read_text() for host in hosts), sep="\n")
            return 1
        one = ["train", str(data), "--out", str(folder / "one"), *settings, "--processes", "1"]
        subprocess.run([sys.executable, "-m", "hakg_dgl.cli", *one], check=True, capture_output=True)
        tensors, metrics = differences(hosts[0] / "run", folder / "one")
        result = RunFolder(hosts[0] / "run").result
        print(f"{arguments.model}, {result['epochs_run']} epochs by two hosts and by one process: parameters differ by")
        print(f"{tensors:.1e} of the largest, metrics of the test split by {metrics:.1e}; torch {torch.__version__}")
        return 0 if tensors < 1e-6 and metrics < 1e-9 else 1


def _cut(
    names: tuple[str, str], hosts: Sequence[Path], processes: Sequence[subprocess.Popen[str]], about: argparse.Namespace
) -> int:
    """Take the cable down, and tell how long the processes take to end, and what they say."""
    began = time.monotonic()
    while not RunFolder(hosts[0] / "run").metrics:
        if time.monotonic() - began > about.limit:
            return 1
        time.sleep(0.1)
    time.sleep(about.cut)
    (interface,) = (
        line["ifname"]
        for line in json.loads(subprocess.check_output(["ip", "-n", names[1], "-j", "addr"]))
        if line["ifname"] != "lo"
    )
    ip("-n", names[1], "link", "set", interface, "down")
    began = time.monotonic()
    codes = end(processes, 120.0)
    print(f"the cable was cut; both ended after {time.monotonic() - began:.0f} s, with {codes}")
    for host in hosts:
        said = [line for line in (host / "log").read_text().splitlines() if "Error:" in line and "hakg" not in line]
        print(f"{host.name}: {said[0] if said else 'nothing was said'}")
    return 0 if None not in codes and 0 not in codes else 1


if __name__ == "__main__":
    sys.exit(main())
