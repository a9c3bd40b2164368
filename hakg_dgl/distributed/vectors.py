"""The vectors that a run ranks by, computed by several processes that each read and hold their own rows."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from hakg_dgl.data.owners import Owners
from hakg_dgl.data.part_dataset import PartDataset
from hakg_dgl.distributed.hakg import HAKGShard
from hakg_dgl.distributed.own_model import own_model
from hakg_dgl.distributed.ownership import Ownership
from hakg_dgl.distributed.ranks import Ranks
from hakg_dgl.distributed.shard import Shard
from hakg_dgl.distributed.shards import shard_class
from hakg_dgl.errors import CheckpointError
from hakg_dgl.models.settings import Settings
from hakg_dgl.randomness import torch_generator
from hakg_dgl.ranking.shared_vectors import VECTORS, create_array, writable_array
from hakg_dgl.training.loading import refuse_changed, splits_of
from hakg_dgl.training.model_file import ModelFiles, model_digest, opened_model
from hakg_dgl.training.run_folder import RunFolder


def write_vectors(run: str | Path, part: PartDataset, owners: Owners, folder: Path) -> None:
    """Write the vectors of own users and own items into the files that ``mapped_scorer`` reads.

    A step of all processes together, on the CPU. The vectors are those of one process, up to rounding.

    Parameters
    ----------
    run
        Folder of the run, which all processes see.
    part, owners
        The data of this process, and who owns what.
    folder
        Where all processes write.

    Raises
    ------
    ConfigError
        If several processes cannot compute the model, or not with its settings.
    IntegrityError
        If the run belongs to another data set.
    CheckpointError
        If the run is incomplete, damaged, or replaced meanwhile.
    """
    ranks, run_folder = Ranks(), RunFolder(run)
    run_folder.check_dataset(part)
    settings = run_folder.settings
    shard_class(settings.kind).refuse(settings)
    with opened_model(run_folder) as files:
        digest = model_digest(run_folder)
        if int(ranks.max(torch.tensor(int(ranks.told(digest) != digest)))):
            raise CheckpointError(f"{run}: was replaced while it was read; start again")
        refuse_changed(run_folder, settings, files.about)
        shard = _filled(files, settings, part, owners, ranks, run_folder)
    shard.model.eval()
    with torch.no_grad():
        vectors = shard.ranking_vectors()
    for name, node_type, own in zip(VECTORS, ("user", "item"), vectors, strict=True):
        shape = len(shard.ownership.owners[node_type]), own.shape[1]
        if ranks.rank == 0:
            create_array(folder, name, shape, own.dtype)
        ranks.max(torch.zeros(1))
        if len(own):
            writable_array(folder, name)[shard.own[node_type]] = own
    ranks.max(torch.zeros(1))  # all rows are there


def _filled(
    files: ModelFiles, settings: Settings, part: PartDataset, owners: Owners, ranks: Ranks, folder: RunFolder
) -> Shard:
    """The own part of the trained model."""
    device, splits = torch.device("cpu"), splits_of(folder, files.about)
    ownership = Ownership.of(owners, part.n_items)
    idle = {"angle_weight": 0.0} if "angle_weight" in settings.by_section() else {}  # whose pairs nobody needs here
    model = own_model(part, settings.replace(idle), device, splits, ownership, ranks)
    random = {name: torch_generator(settings.run.seed, name) for name in model.streams}
    shard = shard_class(settings.kind)(model, ranks, ownership, random, settings.run.seed)
    types, found = shard.row_types, dict[str, Tensor]()
    for name in files.names:
        found[name] = files.rows(name, shard.own[types[name]]) if name in types else files.read(name)
    try:
        if isinstance(shard, HAKGShard):
            shard.install({name[6:]: value for name, value in found.items() if name.startswith("terms.")})
        model.load_tensors(found)
    except (KeyError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{folder.model_place}: does not fit {folder.config_file}: {error}") from error
    return shard
