"""A whole run: set up, evaluate, train, evaluate again, and save the results."""

from __future__ import annotations

import dataclasses
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from embedding_expansion.data.reading import ReadingClock
from embedding_expansion.errors import InvalidInput, ResourceError, RunError
from embedding_expansion.failures import failure
from embedding_expansion.model.network import NotFinite
from embedding_expansion.model.trained import find_device
from embedding_expansion.model.weights import save_tensors
from embedding_expansion.runs.options import TrainConfig
from embedding_expansion.runs.run_folder import RunFolder, default_path
from embedding_expansion.training import checkpoint, report
from embedding_expansion.training.baselines import measure_baselines, title, verdict
from embedding_expansion.training.bottleneck import bottleneck
from embedding_expansion.training.cross_validation import cross_validate
from embedding_expansion.training.environment import environment
from embedding_expansion.training.evaluation import measure
from embedding_expansion.training.fingerprint import Fingerprint, changed_options, fingerprint
from embedding_expansion.training.head import start_head
from embedding_expansion.training.job import Features, Job, Tested, prepare
from embedding_expansion.training.loop import run_steps
from embedding_expansion.training.ranks import Ranks
from embedding_expansion.training.resumption import compare, refuse_changes
from embedding_expansion.training.split import Split, draw, located, open_data
from embedding_expansion.training.state import State


@dataclass(frozen=True)
class Outcome:
    """The outcome of a run: final metrics, or the signal that stopped it."""

    run: Path
    metrics: dict[str, Any] | None
    signal: int = 0
    tested: Tested | None = None  # test embeddings of the kept weights, if this process evaluated them


def train(config: TrainConfig, *, command: tuple[str, ...] = ()) -> Outcome:
    """Trains an embedding model, evaluates it before and after, and saves everything in a run folder.

    Args:
        config: the configuration of the run; its `out` is the run folder.
        command: the command line, for environment.json.

    Returns:
        The run folder and the final metrics, or the signal (SIGINT, SIGTERM) that stopped training after saving. Only
        the first rank has metrics.

    Raises:
        InvalidInput, UnknownName, DataError: the configuration is invalid, or names something that does not exist.
        RunError: the folder is not empty, or the loss became NaN or infinite.
        ResourceError: memory ran out, or another rank was killed or does not respond.
    """
    return train_on(config, None, command=command)


def train_on(
    config: TrainConfig,
    split: Split | None,
    features: Features | None = None,
    *,
    command: tuple[str, ...] = (),
    headline: str = "",
) -> Outcome:
    """As `train`, on data that is already open.

    Args:
        config: the configuration of the run.
        split: the data; None opens the data set of the configuration and draws the held-out classes by its seed.
        features: the features of the images of `split`, if the backbone is frozen; None computes them.
        command: the command line, for environment.json.
        headline: the first lines to print.
    """
    start = time.perf_counter()
    with ExitStack() as stack:
        ranks = Ranks.start(find_device(config.device))
        stack.callback(ranks.stop)
        if ranks.world > 1 and config.protocol == "folds":
            raise InvalidInput(
                f"--protocol folds trains its folds in one process, but there are {ranks.world}; pass --protocol "
                "validation"
            )
        config = dataclasses.replace(config, data=located(config.data))
        split = draw(open_data(config.data), config) if split is None else split
        dataset, sides = split.dataset, split.sides
        job = prepare(config, split)
        job.features |= {} if features is None else features
        ranks.share(job.batch_size)  # raises if the batch cannot be divided evenly
        run = RunFolder(Path(ranks.broadcast(config.out or default_path(config))))
        stack.callback(run.release)

        def begin() -> None:
            run.create(dataclasses.replace(job.config, out=None))
            fingerprint(run.read_config(), dataset, sides).write(run.fingerprint)
            run.write_environment(environment(job.config, list(command)))
            start_head(job)

        ranks.on_first(begin)
        if headline and ranks.is_first:
            print(headline, flush=True)
        return _continue(job, State(config.optimizer.name, since=start), run, ranks)


def resume(path: Path, *, changed: bool = False, command: tuple[str, ...] = ()) -> Outcome:
    """Resumes a run with its configuration and its split.

    On the CPU, with the same number of threads and processes, the result is bit-identical to an uninterrupted run. A
    complete run is not changed.

    Args:
        path: the run folder.
        changed: whether to resume although images, options or checkpoints have changed. Every class keeps its split,
            and new classes are ignored.
        command: the command line, for environment.json.

    Returns:
        The same as `train`.

    Raises:
        RunError: the folder is not a run, one of its files is broken, something has changed, another process is writing
            to it, or the loss became NaN or infinite.
        ResourceError: memory ran out, or another rank was killed or does not respond.
    """
    start = time.perf_counter()
    run = RunFolder(path)
    config = run.read_config()
    before = Fingerprint.read(run.fingerprint)
    options = [] if before is None else changed_options(before, config)
    metrics = run.read_metrics() if run.model.exists() else None
    if metrics is not None and not options:
        report.print_result(metrics, run)
        return Outcome(path, metrics)
    if not changed:
        refuse_changes(run, options)
    with ExitStack() as stack:
        ranks = Ranks.start(find_device(config.device))
        stack.callback(ranks.stop)
        stack.callback(run.release)
        ranks.on_first(run.acquire)
        step = _last_step(run)
        resumption = compare(run, config, step, before, changed, ranks)
        job = prepare(config, resumption.split, fetch_weights=step is None)
        state = State(config.optimizer.name)
        if step is not None:
            state = _restore(job, run, step)
            job.broken = {Path(name): reason for name, reason in state.broken.items()}
            job.clock = ReadingClock(state.waiting_seconds, state.model_seconds, state.decoding_seconds)
        state.since = start

        def begin() -> None:
            run.remove_metrics()
            run.cut_log(-1 if step is None else step)
            resumption.now.write(run.fingerprint)
            surroundings = environment(job.config, list(command))
            run.note_resumption(state.step, surroundings, [*options, *resumption.changes])
            if step is None:
                start_head(job)

        ranks.on_first(begin)
        return _continue(job, state, run, ranks)


def _last_step(run: RunFolder) -> int | None:
    """The step of the newest checkpoint, or None if there is no checkpoint yet."""
    if not run.checkpoints.is_dir():
        raise RunError(
            f"the folder {run.checkpoints} is missing, so the run cannot be resumed; restore it, or start a new run"
        )
    return max(checkpoint.saved_steps(run.checkpoints), default=None)


def _restore(job: Job, run: RunFolder, step: int) -> State:
    """Restores a job from a checkpoint, and checks that the run can be resumed from it exactly."""
    path = checkpoint.checkpoint_path(run.checkpoints, step)
    tensors, about = checkpoint.load(path)
    state = State.from_json(about, path)
    if state.step != step:
        raise RunError(f"{path} contains step {state.step}; restore its name, or start a new run")
    if state.optimizer != job.config.optimizer.name:
        raise RunError(
            f"{path} contains the state of {state.optimizer}, but optimizer.name in config.yaml is "
            f"{job.config.optimizer.name}; set it back to {state.optimizer}, or start a new run"
        )
    if step and not any(name.startswith("optimizer.") for name in tensors):
        raise RunError(f"{path} has no state of the optimiser; restore it, or start a new run")
    best = state.best_step
    if best is not None and best not in checkpoint.saved_steps(run.checkpoints):
        raise RunError(f"the best checkpoint, of step {best}, is missing; restore it, or start a new run")
    if best is not None and best != step:  # reports a broken file now, not at the end of training
        checkpoint.load(checkpoint.checkpoint_path(run.checkpoints, best))
    checkpoint.restore(path, tensors, job.model, job.loss, job.optimizer, job.average)
    return state


def _continue(job: Job, state: State, run: RunFolder, ranks: Ranks) -> Outcome:
    """Trains from the given state and evaluates. Failures of the machine become one sentence."""
    if ranks.is_first:
        report.print_setup(job, state, ranks.world)
    try:
        return _train_and_measure(job, state, run, ranks)
    except NotFinite as error:
        if (
            ranks.is_first and state.step != state.best_step
        ):  # the weights of this step have not been confirmed as finite
            checkpoint.discard(run.checkpoints, state.step)
        raise RunError(
            f"training diverged: {error} after step {state.step}; {run.path} contains the last checkpoint; "
            "train again with a smaller --optimizer.lr, or --optimizer.clip_norm 1"
        ) from error
    except (MemoryError, OSError, RuntimeError) as error:
        if (found := failure(error)) is None:
            raise
        raise ResourceError(f"{found}; resume from the last checkpoint with embex train --resume {run.path}") from error


def _train_and_measure(job: Job, state: State, run: RunFolder, ranks: Ranks) -> Outcome:
    before = _before(job, state, run) if ranks.is_first else {}
    folds = _folds(job, run) if job.config.protocol == "folds" else {}
    if isinstance(folds, int):
        return Outcome(run.path, None, folds)
    state.last_step = folds.get("step")
    stopped_by = run_steps(job, state, run, ranks)
    if stopped_by or not ranks.is_first:
        return Outcome(run.path, None, stopped_by)
    tested = _keep(job, state, run)
    metrics = _final(tested, state) | {"before": before, "wall_seconds": round(state.clock(), 1)}
    metrics["verdict"] = verdict(before, metrics, job.config)
    metrics["reading"] = bottleneck(job)
    if folds:
        metrics["folds"] = folds
    run.write_metrics(metrics)
    report.print_result(metrics, run)
    return Outcome(run.path, metrics, tested=tested if job.config.measure_test else None)


def _before(job: Job, state: State, run: RunFolder) -> dict[str, Any]:
    """Metrics of the baselines: from the log, or measured now and logged as step 0."""
    for entry in run.read_log():
        if "before" in entry:
            found: dict[str, Any] = entry["before"]
            return found
    if state.step or not (job.config.measure_before and job.config.measure_test):
        return {}
    before = {}
    for name, before[name] in measure_baselines(job):
        report.print_metrics(f"before, {title(name, before[name])}", before[name])
    run.log({"step": 0, "before": before})
    return before


def _folds(job: Job, run: RunFolder) -> dict[str, Any] | int:
    """The outcome of a cross-validation, from the log or computed now; or the signal that stopped it."""
    for entry in run.read_log():
        if "folds" in entry:
            known: dict[str, Any] = entry["folds"]
            return known
    found = cross_validate(job, run, train_on)
    if not isinstance(found, int):
        report.print_folds(found)
        run.log({"step": 0, "folds": found})
    return found


def _keep(job: Job, state: State, run: RunFolder) -> Tested:
    """Embeds the test images with the selected weights, and writes these weights to model.safetensors.

    A run that does not measure the test classes embeds its held-out training classes instead.
    """
    selected = _selected(state)
    if selected != state.step:
        path = checkpoint.checkpoint_path(run.checkpoints, selected)
        tensors, _ = checkpoint.load(path)
        checkpoint.restore(path, tensors, job.model, job.loss, job.optimizer, job.average)
    held_out = None if job.config.measure_test else job.validation
    tested = job.tested() if held_out is None else Tested(job, *job.embed(held_out))
    about = {"step": selected, "selected_by": job.config.protocol, "data": job.dataset.name}
    save_tensors(run.model, job.shown.state_dict(), about)
    return tested


def _final(tested: Tested, state: State) -> dict[str, Any]:
    """The metrics of the embedded images."""
    job = tested.job
    measures: dict[str, Any] = measure(tested.vectors, tested.images, job.dataset.recall_at, seed=job.config.seed)
    return (
        measures
        | {
            "data": job.dataset.name + ("" if job.config.measure_test else ", held-out training classes"),
            "selected_by": SELECTED_BY[_selection(job)],
            "selected_step": _selected(state),
            "steps": state.step,
            "images_per_second": round(state.step * job.batch_size / max(state.training_seconds, 1e-9), 1),
            "broken_images": sorted(str(path) for path in job.broken),
            "held_out_classes": job.held_out_classes,
        }
        | ({} if job.dataset.prepared is None else {"prepared": job.dataset.prepared.described})
    )


def _selection(job: Job) -> str:
    protocol = job.config.protocol
    return protocol if protocol == "folds" or job.selects_on is not None else "last"


def _selected(state: State) -> int:
    return state.step if state.best_step is None else state.best_step


SELECTED_BY = {
    "validation": "MAP@R on held-out training classes",
    "folds": "MAP@R on training classes that were held out in turn",
    "last": "the last step",
    "paper": "Recall@1 on the test classes (the paper's protocol: these numbers are optimistic)",
}
