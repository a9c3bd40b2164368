"""Which models several processes can train."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from hakg_dgl.distributed.hakg import HAKGShard
from hakg_dgl.distributed.pairwise import BPRMFShard, LightGCNShard
from hakg_dgl.distributed.shard import Shard
from hakg_dgl.errors import ConfigError

SHARDS: Mapping[str, type[Shard]] = MappingProxyType(
    {"hakg": HAKGShard, "lightgcn": LightGCNShard, "bpr-mf": BPRMFShard}
)
"""Name of a model -> what a process owns of it."""


def shard_class(kind: str) -> type[Shard]:
    """The class for a model; ConfigError, which names those that there are, for one that runs in one process only."""
    if kind not in SHARDS:
        raise ConfigError(
            f"model {kind!r} is trained by one process; several can train {', '.join(SHARDS)}. Leave --processes out, "
            "or choose one of them"
        )
    return SHARDS[kind]
