"""Going on with a run from its last saved state, in all processes; see :mod:`hakg_dgl.training.resuming`."""

from __future__ import annotations

from hakg_dgl.distributed.session import DistributedSession
from hakg_dgl.training.checkpoint import ONLY_ITS_DATA, refuse_other_run, require_run, restart
from hakg_dgl.training.protocol import REFIT_SPLITS
from hakg_dgl.training.resuming import refuse_fewer_epochs
from hakg_dgl.training.sharded_state import remove_unnamed

NOTHING, STATE, REFIT, SEARCH = "nothing", "state", "state of a refit", "search"
"""What a run goes on from."""


def resume(session: DistributedSession) -> None:
    """Set a session back to the last saved state of its run; errors as there, in the first process."""
    about = session.ranks.told(_plan(session) if session.first else None)
    if about["start"]:
        if session.folder is not None:
            session.start = session.folder.load_tensors(session.folder.start_file)[0]
        session.begin()
    if about["from"] == NOTHING:
        return
    checkpoint = session.shared_checkpoint
    if about["from"] == REFIT:
        session.set_up(REFIT_SPLITS)
        checkpoint = session.shared_checkpoint
    session.standing, session.best = checkpoint.restore(checkpoint.search_file if about["from"] == SEARCH else None)
    session.count_steps()
    refuse_fewer_epochs(session)
    standing, folder = session.standing, session.folder
    if folder is not None:
        folder.remove_temporaries()
        remove_unnamed(folder)
        folder.truncate_metrics(standing.epoch)
        folder.result_file.unlink(missing_ok=True)
        folder.describe(session.settings, session.dataset, session.data_path)
    if session.best and standing.refit_from is None:
        session.save_best()
    if about["from"] == SEARCH:
        session.save_state()


def _plan(session: DistributedSession) -> dict[str, object]:
    """What the first process finds in the folder of the run."""
    folder = require_run(session.folder)
    checkpoint, start = session.shared_checkpoint, folder.start_file.exists()
    if start:
        refuse_other_run(folder, session.settings, session.dataset)
    if not checkpoint.exists():
        restart(folder, session.settings, session.dataset, session.data_path)
        return {"from": NOTHING, "start": start}
    folder.check_dataset(session.dataset, ONLY_ITS_DATA)
    if checkpoint.saved_standing().refit_from is None:
        return {"from": STATE, "start": start}
    search = checkpoint.saved_standing(checkpoint.search_file)
    goes_on = session.selection.reason_to_stop(search) is None
    return {"from": SEARCH if goes_on else REFIT, "start": start}
