"""``hakg doctor`` says what is installed, and which kernels run here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from .files import write_json
from .report import table


@click.command("doctor", epilog="\b\nExample:\n  hakg doctor\n  hakg doctor --json | jq .kernels\n")
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
def doctor_command(as_json: bool) -> None:
    """Show versions, devices, and which kernels run on each."""
    from hakg_dgl.doctor import examine

    found = examine()
    if as_json:
        write_json(found, Path("-"))
        return
    versions = [{"package": name, "version": number or "not installed"} for name, number in found["versions"].items()]
    click.echo(table(versions) + "\n")
    click.echo(f"{found['system']}, {found['cores']} cores, PyTorch uses {found['threads']} threads")
    for line in _devices(found["cuda"]) + _dgl(found["dgl"]):
        click.echo(line)
    rows = [
        {"device": device, "kernels = auto": about["backend"], "because": about["reason"]}
        for device, about in found["kernels"].items()
    ]
    click.echo("\n" + table(rows))
    if found["advice"]:
        click.echo("\n" + "\n".join(found["advice"]))


def _devices(cuda: dict[str, Any]) -> list[str]:
    if not cuda["available"]:
        return ["CUDA: none" + ("" if cuda["built"] is None else f" found (PyTorch is built for {cuda['built']})")]
    lines = [
        f"CUDA {cuda['built']}: {device['name']}, compute capability {device['capability']}, "
        f"{device['memory_bytes'] / 1e9:.0f} GB"
        for device in cuda["devices"]
    ]
    problem = cuda["graphs"]["problem"]
    return [
        *lines,
        "CUDA graphs: " + ("used, unless cuda_graphs = false" if problem is None else f"not here: {problem}"),
    ]


def _dgl(dgl: dict[str, Any]) -> list[str]:
    if dgl["problem"] is not None:
        return ["DGL: cannot be used, see below; everything runs without it but kernels = dgl and graphs of DGL's own"]
    return [f"DGL's kernels: {'CPU and CUDA' if dgl['cuda'] else 'CPU'}", *(f"  {shim}" for shim in dgl["shims"])]
