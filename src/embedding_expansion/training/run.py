"""A whole run: set up, measure before, train, measure after, keep everything."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from embedding_expansion.data.transforms import test_transform
from embedding_expansion.errors import RunError
from embedding_expansion.training import checkpoint, report
from embedding_expansion.training.config import TrainConfig
from embedding_expansion.training.evaluation import RAW_SIZE, measure, raw_pixels
from embedding_expansion.training.finite import NotFinite
from embedding_expansion.training.job import Job, Tested, find_device, prepare
from embedding_expansion.training.loop import run_steps
from embedding_expansion.training.ranks import Ranks
from embedding_expansion.training.run_folder import RunFolder, default_path
from embedding_expansion.training.state import State


@dataclass(frozen=True)
class Outcome:
    """How a run ended: with final measures, or by a signal and ready to be resumed."""

    run: Path
    metrics: dict[str, Any] | None
    signal: int = 0
    tested: Tested | None = None  # the weights that were kept, where this process measured them


def train(config: TrainConfig, *, command: tuple[str, ...] = ()) -> Outcome:
    """Trains an embedding model, measures it before and after, and keeps everything in a run folder.

    Args:
        config: of the run; its `out` names the folder.
        command: what the user typed, for environment.json.

    Returns:
        The run folder and the final measures, or the signal (SIGINT, SIGTERM) that stopped it after saving. On other
        ranks than the first there are no measures.

    Raises:
        InvalidInput, UnknownName, DataError: what the configuration names cannot be had.
        RunError: the folder is taken, or the loss became NaN or infinite.
    """
    start = time.perf_counter()
    ranks = Ranks.start(find_device(config.device))
    try:
        job = prepare(config)
        ranks.share(job.batch_size)  # an uneven batch fails here
        run = RunFolder(Path(ranks.same(config.out or default_path(config))))
        if ranks.is_first:
            run.create()
            run.write_config(dataclasses.replace(job.config, out=None))
            run.write_environment(job.config, list(command))
        return _go_on(job, State(config.optimizer.name, since=start), run, ranks)
    finally:
        ranks.stop()


def resume(path: Path, *, command: tuple[str, ...] = ()) -> Outcome:
    """Goes on with a run as it was configured.

    On the CPU, with the same number of threads, it ends bit for bit as if it had never stopped. A run that is complete
    is left as it is.

    Args:
        path: the run folder.
        command: what the user typed, for environment.json.

    Returns:
        As `train`.

    Raises:
        RunError: the folder is no run, a file of it is broken, or the loss became NaN or infinite.
    """
    start = time.perf_counter()
    run = RunFolder(path)
    config = run.read_config()
    if (metrics := run.read_metrics()) is not None:
        report.say_end(metrics, run)
        return Outcome(path, metrics)
    ranks = Ranks.start(find_device(config.device))
    try:
        step = _last_step(run)
        job, state = prepare(config, fetch_weights=step is None), State(config.optimizer.name)
        if step is not None:
            state = _restore(job, run, step)
            job.broken = {Path(name): reason for name, reason in state.broken.items()}
        state.since = start
        if ranks.is_first:
            run.cut_log(state.step if state.step else -1)
            run.note_resumption(state.step, job.config, list(command))
        return _go_on(job, state, run, ranks)
    finally:
        ranks.stop()


def _last_step(run: RunFolder) -> int | None:
    """The step of the newest checkpoint, or None where the run was stopped before its first one."""
    if not run.checkpoints.is_dir():
        raise RunError(f"there is no folder {run.checkpoints} to resume from; restore it, or start a new run")
    return max(checkpoint.saved_steps(run.checkpoints), default=None)


def _restore(job: Job, run: RunFolder, step: int) -> State:
    """Brings the job to where it was at a checkpoint; refuses one from which it would go on in another way."""
    path = checkpoint.checkpoint_path(run.checkpoints, step)
    tensors, about = checkpoint.load_tensors(path)
    state = State.from_json(about, path)
    if state.step != step:
        raise RunError(f"{path} holds step {state.step}; give it back its name, or start a new run")
    if state.optimizer != job.config.optimizer.name:
        raise RunError(
            f"{path} holds the state of {state.optimizer}, but config.yaml asks for {job.config.optimizer.name}; "
            f"set optimizer.name back to {state.optimizer}, or start a new run"
        )
    if not any(name.startswith("optimizer.") for name in tensors):
        raise RunError(f"{path} lacks the optimiser's state; restore it, or start a new run")
    if state.best_step is not None and state.best_step not in checkpoint.saved_steps(run.checkpoints):
        raise RunError(f"the best checkpoint, of step {state.best_step}, is gone; restore it, or start a new run")
    checkpoint.restore(path, tensors, job.model, job.loss, job.optimizer, job.average)
    return state


def _go_on(job: Job, state: State, run: RunFolder, ranks: Ranks) -> Outcome:
    """Trains from the state on, and measures."""
    before: dict[str, Any] = {}
    if ranks.is_first:
        report.say_what_runs(job, state, ranks.world)
        before = _before(job, run)
    try:
        stopped_by = run_steps(job, state, run, ranks)
        if stopped_by or not ranks.is_first:
            return Outcome(run.path, None, stopped_by)
        tested = _keep(job, state, run)
        metrics = _final(tested, state) | {"before": before, "wall_seconds": round(state.clock(), 1)}
    except NotFinite as error:
        if ranks.is_first and state.step != state.best_step:  # nothing has vouched for the weights of this step
            checkpoint.discard(run.checkpoints, state.step)
        raise RunError(
            f"training diverged: {error} after step {state.step}; {run.path} keeps what was saved before; "
            "train again with a smaller --optimizer.lr, or --optimizer.clip_norm 1"
        ) from error
    run.write_metrics(metrics)
    report.say_end(metrics, run)
    return Outcome(run.path, metrics, tested=tested)


def _before(job: Job, run: RunFolder) -> dict[str, Any]:
    """The measures of the raw pixels and of the untrained net: from the log, or taken now and logged as step 0."""
    for entry in run.read_log():
        if "before" in entry:
            found: dict[str, Any] = entry["before"]
            return found
    if not job.config.measure_before:
        return {}
    test, config = job.dataset.test, job.config
    small = test_transform(min(job.test_transform.size, RAW_SIZE), "none")
    ways = {
        "raw_vectors" if test.holds_vectors else "raw_pixels": job.run_over(
            test, lambda images: raw_pixels(images.to(job.device)), small
        ),
        "untrained": job.embed(test),
    }
    before = {}
    for name, (vectors, images) in ways.items():
        before[name] = measure(vectors, images, job.dataset.recall_at, seed=config.seed)
        report.say_measures(name, before[name])
    run.log({"step": 0, "before": before})
    return before


def _keep(job: Job, state: State, run: RunFolder) -> Tested:
    """The test images by the weights that are kept; writes these weights to model.safetensors."""
    selected = _selected(state)
    if selected != state.step:
        path = checkpoint.checkpoint_path(run.checkpoints, selected)
        tensors, _ = checkpoint.load_tensors(path)
        checkpoint.restore(path, tensors, job.model, job.loss, job.optimizer, job.average)
    tested = job.tested()
    about = {"step": selected, "selected_by": job.config.protocol, "data": job.dataset.name}
    checkpoint.save_tensors(run.model, job.shown.state_dict(), about)
    return tested


def _final(tested: Tested, state: State) -> dict[str, Any]:
    """The measures on the test classes."""
    job = tested.job
    measures: dict[str, Any] = measure(tested.vectors, tested.images, job.dataset.recall_at, seed=job.config.seed)
    return measures | {
        "data": job.dataset.name,
        "selected_by": SELECTED_BY[job.config.protocol],
        "selected_step": _selected(state),
        "steps": state.step,
        "images_per_second": round(state.step * job.batch_size / max(state.training_seconds, 1e-9), 1),
        "broken_images": sorted(str(path) for path in job.broken),
        "held_out_classes": job.held_out_classes,
    }


def _selected(state: State) -> int:
    return state.step if state.best_step is None else state.best_step


SELECTED_BY = {
    "validation": "held-out training classes",
    "last": "the last step",
    "paper": "the test classes (the paper's protocol: these numbers are optimistic)",
}
