"""Prepares the resumption of a run: the current data in the original split, and the changes since the start."""

from __future__ import annotations

from dataclasses import dataclass

from embedding_expansion.errors import RunError
from embedding_expansion.runs.options import TrainConfig
from embedding_expansion.runs.run_folder import RunFolder
from embedding_expansion.training import checkpoint
from embedding_expansion.training.fingerprint import Fingerprint, changed_data, fingerprint
from embedding_expansion.training.ranks import Ranks
from embedding_expansion.training.split import Split, draw, keep, located, open_data


@dataclass(frozen=True)
class Resumption:
    """The data to resume a run with."""

    split: Split
    now: Fingerprint  # of the current data
    changes: list[str]  # to the data and the checkpoints


def compare(
    run: RunFolder, config: TrainConfig, step: int | None, before: Fingerprint | None, changed: bool, ranks: Ranks
) -> Resumption:
    """Opens the data of a run and looks for changes. The first rank decides for all.

    Args:
        run: the run folder.
        config: its configuration.
        step: the step of the newest checkpoint, or None.
        before: the fingerprint of the run; None if it is missing.
        changed: whether to accept changes.
        ranks: the processes that train together. File times can differ between their machines.

    Raises:
        RunError: there are changes and `changed` is False, or the protocol has changed.
        DataError, InvalidInput: the data cannot be opened, or a split has no images left.
    """
    dataset = open_data(located(config.data))
    if before is None:
        if step is not None and not changed:
            raise RunError(
                f"{run.path} lacks fingerprint.json, which records the data and options of the run; restore it, or "
                "pass --resume_changed to resume with the current data and options"
            )
        split = draw(dataset, config)
        notes = [] if step is None else ["fingerprint.json was missing, so the split was drawn again"]
        return Resumption(split, fingerprint(config, dataset, split.sides), notes)
    if bool(before.sides.held_out) != (config.protocol == "validation"):
        raise RunError(
            f"protocol is {config.protocol} in {run.path / 'config.yaml'}, but the run was started "
            f"{'with' if before.sides.held_out else 'without'} held-out classes; restore it, or start a new run"
        )
    now, changes = before, list[str]()
    if ranks.is_first:
        now = fingerprint(config, dataset, before.sides)
        changes = changed_data(before, now)
        if changed:
            changes += _accepted(run)
    changes = ranks.broadcast(changes)
    if not changed:
        refuse_changes(run, changes)
    return Resumption(keep(dataset, before.sides, config), now, changes)


def refuse_changes(run: RunFolder, changes: list[str]) -> None:
    """Raises if there are changes.

    Raises:
        RunError: there are changes; the message lists them.
    """
    if changes:
        raise RunError(
            f"{run.path} has changed since it was started: {'; '.join(changes)}; undo this, or resume anyway with "
            "--resume_changed (every class then keeps its split, and new classes are ignored)"
        )


def _accepted(run: RunFolder) -> list[str]:
    """Corrects the checksums of changed checkpoints; returns a note on each."""
    notes = []
    for step in checkpoint.saved_steps(run.checkpoints):
        path = checkpoint.checkpoint_path(run.checkpoints, step)
        if checkpoint.accept(path):
            notes.append(f"the checksum of {path.name} was wrong")
    return notes
