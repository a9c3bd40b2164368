"""Owners of nodes by METIS (Karypis and Kumar, SIAM J. Sci. Comput. 1998), through DGL: few edges between parts."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

import numpy as np
import torch

from hakg_dgl.data.edge_blocks import EDGE_TABLES, SavedEdges
from hakg_dgl.data.owners import Owners, require_parts
from hakg_dgl.errors import ConfigError

BYTES_PER_EDGE, BYTES_PER_NODE = 200, 200
"""Memory that the graph in both directions and METIS's coarser copies of it take, generously."""


def metis_owners(edges: SavedEdges, n_parts: int) -> Owners:
    """Owners by METIS: parts with about equally many users, items and other entities, and edges, and a small cut.

    Raises
    ------
    ConfigError
        If the graph would not fit into the memory that is free.
    MissingDependencyError
        If DGL cannot be imported.
    """
    require_parts(n_parts)
    if n_parts == 1:
        return Owners(1, np.zeros(edges.n_users, np.int32), np.zeros(edges.n_entities, np.int32))
    _require_memory(edges)
    from hakg_dgl.graph.dgl_gate import dgl

    ends: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    for table, first, second in edges.ends():
        kinds = EDGE_TABLES[table].first[1], EDGE_TABLES[table].second[1]
        for end, kind, ids in zip(ends, kinds, (first, second), strict=True):
            end.append(ids if kind == "user" else ids + edges.n_users)
    one, other = (torch.from_numpy(np.concatenate(end)) for end in ends)
    n_nodes = edges.n_users + edges.n_entities
    graph = dgl.graph((torch.cat([one, other]), torch.cat([other, one])), num_nodes=n_nodes)
    kinds_of_nodes = torch.full((n_nodes,), 2)
    kinds_of_nodes[: edges.n_users + edges.n_items] = 1
    kinds_of_nodes[: edges.n_users] = 0
    with contextlib.redirect_stdout(io.StringIO()):  # it tells of its progress
        found = dgl.metis_partition_assignment(graph, n_parts, balance_ntypes=kinds_of_nodes, balance_edges=True)
    if found is None:
        raise ConfigError(f"METIS found no {n_parts} parts of this graph; take --method hash or range")
    owner = found.numpy().astype(np.int32)
    return Owners(n_parts, owner[: edges.n_users].copy(), owner[edges.n_users :].copy())


def _require_memory(edges: SavedEdges) -> None:
    counts = edges.about["counts"]
    n_edges = sum(int(counts.get(what, 0)) for what in ("train", "triples", "user_facts", "user_links"))
    wanted = n_edges * BYTES_PER_EDGE + (edges.n_users + edges.n_entities) * BYTES_PER_NODE
    free = _free_memory()
    if free is not None and wanted > free:
        raise ConfigError(
            f"METIS would take about {wanted / 2**30:.1f} GiB for {n_edges:,} edges, and {free / 2**30:.1f} GiB are "
            "free; take --method hash or range, which need none, or a machine with more memory"
        )


def _free_memory() -> int | None:
    """Bytes that can be taken, None where the system does not say."""
    info = Path("/proc/meminfo")
    if not info.exists():
        return None
    line = next((line for line in info.read_text().splitlines() if line.startswith("MemAvailable:")), None)
    return None if line is None else int(line.split()[1]) * 1024
