"""Going on with a run from its last saved state."""

from __future__ import annotations

from hakg_dgl.errors import CheckpointError
from hakg_dgl.training.checkpoint import ONLY_ITS_DATA, refuse_other_run, require_run, restart
from hakg_dgl.training.protocol import REFIT_SPLITS
from hakg_dgl.training.session import Session
from hakg_dgl.training.sharded_state import remove_unnamed


def resume(session: Session) -> None:
    """Set a session back to the last saved state of its run, or to the beginning if there is none.

    With more epochs than before, a search that these ended goes on, also where the refit has begun or is done: the
    refit is then made again for the epoch that is best in the end.

    Raises
    ------
    CheckpointError
        If there is no run, it has other settings, or has done more epochs than the settings allow.
    IntegrityError
        If it belongs to another data set.
    """
    folder = require_run(session.folder)
    if folder.start_file.exists():
        refuse_other_run(folder, session.settings, session.dataset)  # whose tensors would not fit
        session.start = folder.load_tensors(folder.start_file)[0]
        session.begin()
    if session.checkpoint is None or not session.checkpoint.exists():  # stopped within the first epoch
        restart(folder, session.settings, session.dataset, session.data_path)
        return
    folder.check_dataset(session.dataset, ONLY_ITS_DATA)
    if session.checkpoint.saved_standing().refit_from is None or not _search_goes_on(session):
        session.standing, session.best = session.checkpoint.restore()
    refuse_fewer_epochs(session)
    standing = session.standing
    folder.remove_temporaries()
    remove_unnamed(folder)
    folder.truncate_metrics(standing.epoch)
    folder.result_file.unlink(missing_ok=True)
    if session.best and standing.refit_from is None:
        session.save_best()  # the file may be of a later epoch, which training may not come to again
    folder.describe(session.settings, session.dataset, session.data_path)


def _search_goes_on(session: Session) -> bool:
    """Restore the search that led to the refit, and leave the refit if that search is not over by these settings."""
    assert session.checkpoint is not None
    session.standing, session.best = session.checkpoint.restore(session.checkpoint.search_file)
    if session.selection.reason_to_stop(session.standing) is None:
        session.save_state()
        return True
    session.set_up(REFIT_SPLITS)
    return False


def refuse_fewer_epochs(session: Session) -> None:
    """Raise CheckpointError if a run has done more epochs than the settings allow."""
    standing, epochs = session.standing, session.settings.training.epochs
    done = standing.epoch if standing.refit_from is None else standing.refit_from
    if done > epochs or (done == epochs and not session.best and standing.refit_from is None):
        where = "" if session.folder is None else f"{session.folder.path}: "
        raise CheckpointError(f"{where}has done {done} epochs already; epochs = {epochs} is too few")
