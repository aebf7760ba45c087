"""What a run is resumed with: the data as it is now, on the split that was kept, and what has changed."""

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
    """How a run goes on."""

    split: Split
    now: Fingerprint  # what it goes on with
    changes: list[str]  # in the data and the checkpoints


def compare(
    run: RunFolder, config: TrainConfig, step: int | None, before: Fingerprint | None, changed: bool, ranks: Ranks
) -> Resumption:
    """Opens the data of a run, and looks for changes; the first rank's word is that of all.

    Args:
        run: the folder.
        config: as it is read from there.
        step: that of the newest checkpoint, if there is one.
        before: what the run was started with; None where nobody has noted it.
        changed: go on with what has changed.
        ranks: the processes that go on together; files may have other times where another one runs.

    Raises:
        RunError: something has changed, and `changed` is not set; or the protocol holds out other classes.
        DataError, InvalidInput: the data cannot be had, or a side has no images left.
    """
    dataset = open_data(located(config.data))
    if before is None:
        if step is not None and not changed:
            raise RunError(
                f"{run.path} lacks fingerprint.json, which says what it was started with; restore it, or pass "
                "--resume_changed to go on with the data and options that there are now"
            )
        split = draw(dataset, config)
        notes = [] if step is None else ["fingerprint.json was missing; the split was drawn again"]
        return Resumption(split, fingerprint(config, dataset, split.sides), notes)
    if bool(before.sides.held_out) != (config.protocol == "validation"):
        raise RunError(
            f"protocol is {config.protocol} in {run.path / 'config.yaml'}, but the run was started "
            f"{'with' if before.sides.held_out else 'without'} classes held out; set it back, or start a new run"
        )
    now, changes = before, list[str]()
    if ranks.is_first:
        now = fingerprint(config, dataset, before.sides)
        changes = changed_data(before, now)
        if changed:
            changes += _accepted(run)
    changes = ranks.same(changes)
    if not changed:
        refuse_changes(run, changes)
    return Resumption(keep(dataset, before.sides, config), now, changes)


def refuse_changes(run: RunFolder, changes: list[str]) -> None:
    """Says what has changed, if anything has.

    Raises:
        RunError: something has.
    """
    if changes:
        raise RunError(
            f"{run.path} has changed since it was started: {'; '.join(changes)}; put that back, or go on all the same "
            "with --resume_changed (every class then stays on its side, and those that came take no part)"
        )


def _accepted(run: RunFolder) -> list[str]:
    """Gives checkpoints whose checksum differs the one that they should have, and says which these are."""
    notes = []
    for step in checkpoint.saved_steps(run.checkpoints):
        path = checkpoint.checkpoint_path(run.checkpoints, step)
        if checkpoint.accept(path):
            notes.append(f"the checksum of {path.name} differed")
    return notes
