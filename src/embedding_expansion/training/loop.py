"""The training loop in plain PyTorch. `run_steps` runs everything from the first step to the last."""

from __future__ import annotations

import copy
import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from embedding_expansion.data.images import ImageSet
from embedding_expansion.data.loader import broken_sentence
from embedding_expansion.errors import DataError
from embedding_expansion.generation.method import Method
from embedding_expansion.model.network import EmbeddingModel, NotFinite, all_finite
from embedding_expansion.model.weights import save_tensors
from embedding_expansion.runs.run_folder import RunFolder
from embedding_expansion.training import checkpoint
from embedding_expansion.training.collapse import COINCIDE, CollapseWatch
from embedding_expansion.training.evaluation import measure_retrieval
from embedding_expansion.training.factory import set_learning_rate, sized
from embedding_expansion.training.job import Job
from embedding_expansion.training.journal import Journal
from embedding_expansion.training.objectives import gradient_of_loss, gradients_of_objectives
from embedding_expansion.training.ranks import Ranks
from embedding_expansion.training.state import State, step_seed

_CAUGHT = (signal.SIGINT, signal.SIGTERM)
_FALLING = (
    "the held-out classes have been below their value at the start in every evaluation so far; if it stays so, train "
    "with a smaller --optimizer.lr or, with a pretrained backbone, --optimizer.backbone_lr_factor 0.03"
)


class StopSignal:
    """A context manager that records the first SIGINT or SIGTERM. A second signal has its usual effect.

    Only the main thread can handle signals; in other threads nothing is recorded.
    """

    def __init__(self) -> None:
        self.number = 0  # the signal number, or 0
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopSignal:
        if threading.current_thread() is threading.main_thread():
            self._previous = {caught: signal.signal(caught, self._note) for caught in _CAUGHT}
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        self._restore()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.number = number
        self._restore()

    def _restore(self) -> None:
        for caught, handler in self._previous.items():
            signal.signal(caught, handler)
        self._previous = {}


def run_steps(job: Job, state: State, run: RunFolder, ranks: Ranks) -> int:
    """Trains from `state.step` to the end, with log lines, evaluations and checkpoints.

    Args:
        job: the job; its model, loss and optimiser are updated.
        state: the progress of the run; it is updated.
        run: the run folder; only the first rank writes to it.
        ranks: the processes that train together.

    Returns:
        The number of the signal that stopped training after saving, or 0 if training is finished.

    Raises:
        NotFinite: the weights of `state.step`, or values computed from them, are NaN or infinite.
        DataError: broken images make the ranks' parts of a batch differ in size.
    """
    config = job.config
    job.model.train()
    network, loss = ranks.wrap(job.network, job.loss)
    scaler = torch.amp.GradScaler(job.device.type, enabled=job.precision == "float16")
    if state.scaler:
        scaler.load_state_dict(state.scaler)
    if state.stops_early(config):
        return 0
    job.cache_features()
    ranks.broadcast(None)  # waits for the first rank, which may evaluate first
    with StopSignal() as stop, Journal(run if ranks.is_first else None, state.step, state.end(config)) as journal:
        watched = job.loss.loss if isinstance(job.loss, Method) else job.loss
        watch = CollapseWatch(watched, sized(config, job.model), has_warned=ranks.is_first and run.has_warned(COINCIDE))
        _begin(job, state, run, ranks, journal, scaler)
        _compile_kernels(job)
        began, share = time.perf_counter(), ranks.share(job.batch_size)
        for step, inputs, labels in job.batches(state.step, share):
            waited = time.perf_counter() - began
            with job.clock.computes():
                _check_share(len(labels), share, job, ranks)
                torch.manual_seed(step_seed(config.seed, step))
                lr = set_learning_rate(job.optimizer, config.optimizer, step, config.steps)
                _freeze_batch_norm(job, step)
                is_warmup = step < config.warmup_head
                value = _optimize(job, network, loss, scaler, ranks, inputs.to(job.device), labels, is_warmup)
                state.step = step + 1
                if job.average is not None and config.ema is not None:
                    follow(job.average, job.model, config.ema, state.step)
            seconds = time.perf_counter() - began
            state.training_seconds += seconds
            journal.count(value, job.batch_size, seconds, job.loss.last_statistics, waited=waited)
            warning = watch.step(value, labels, ranks)
            stops = _between_steps(job, state, run, ranks, journal, scaler, {"loss": value, "lr": lr}, warning)
            stopped_by = ranks.maximum(stop.number)
            if stopped_by and ranks.is_first:
                _save(job, state, scaler, run, ranks.world)
            if stopped_by or stops:
                return stopped_by
            began = time.perf_counter()
    return 0


def _begin(
    job: Job, state: State, run: RunFolder, ranks: Ranks, journal: Journal, scaler: torch.amp.GradScaler
) -> None:
    """Evaluates and saves the weights of the start, so that they are kept unless training improves them."""
    held_out = None if job.config.protocol == "paper" else job.selects_on
    if ranks.is_first and state.step == 0 and state.best_step is None and held_out is not None:
        journal.write({"step": 0} | _evaluate(job, held_out, state, run, journal))
        _save(job, state, scaler, run, ranks.world)
    ranks.broadcast(None)


def _compile_kernels(job: Job) -> None:
    """Compiles the kernels of the loss on random rows, before the clock starts; a copy of the loss sees these rows."""
    if job.device.type != "cuda" or isinstance(job.loss, Method):
        return
    loss, labels = copy.deepcopy(job.loss), torch.arange(job.batch_size) // job.config.sampler.images_per_class
    for _ in range(2):  # the second time with rows in the memory, if there is one
        rows = torch.randn(job.batch_size, job.model.dimensions, device=job.device, requires_grad=True)
        loss(rows, labels).backward()  # type: ignore[no-untyped-call]


def _freeze_batch_norm(job: Job, step: int) -> None:
    """Freezes the backbone's batch norm statistics during the warmup of the head."""
    warmup = job.config.warmup_head
    if warmup and step <= warmup:  # at every step, because evaluations reset the mode
        job.model.train()
        if step < warmup:
            job.model.trunk.eval()


def _check_share(rows: int, share: slice, job: Job, ranks: Ranks) -> None:
    """Raises if a class without readable images leaves a batch, as the parts of the ranks must have equal sizes."""
    if ranks.world > 1 and ranks.maximum(rows < share.stop - share.start):
        broken = {path: why for part in ranks.gather(job.broken) for path, why in part.items()}
        raise DataError(
            f"a class has no readable image, but {ranks.world} processes need equal parts of a batch; repair or remove "
            f"the class, or train in one process: {broken_sentence(broken)}"
        )


def _optimize(
    job: Job,
    network: nn.Module,
    loss: nn.Module,
    scaler: torch.amp.GradScaler,
    ranks: Ranks,
    inputs: Tensor,
    labels: Tensor,
    is_warmup: bool = False,
) -> float:
    """Runs one step of the optimiser; returns the loss.

    The checks before the update confirm that the current weights, and so the last checkpoint, are finite. All ranks
    stop together, because the others would wait for a rank that stops alone.
    """
    if isinstance(job.loss, Method):
        value = gradients_of_objectives(job, job.loss, scaler, ranks, (inputs, labels))
    else:
        value = gradient_of_loss(job, network, loss, scaler, ranks, (inputs, labels))
    if is_warmup:  # discarded instead of disabled, because DDP needs a gradient of every weight on all ranks
        for parameter in job.model.trunk.parameters():
            parameter.grad = None
    if job.config.optimizer.clip_norm is not None:
        scaler.unscale_(job.optimizer)
        parameters = [parameter for group in job.optimizer.param_groups for parameter in group["params"]]
        nn.utils.clip_grad_norm_(parameters, job.config.optimizer.clip_norm)
    scaler.step(job.optimizer)
    scaler.update()
    return value


def _between_steps(
    job: Job,
    state: State,
    run: RunFolder,
    ranks: Ranks,
    journal: Journal,
    scaler: torch.amp.GradScaler,
    figures: dict[str, float],
    warning: str,
) -> bool:
    """Logs, evaluates and saves when it is due; returns whether to stop early."""
    config = job.config
    entry: dict[str, Any] = {"step": state.step}
    if state.is_due(config.log_every, config):
        entry |= {"loss": ranks.average(figures["loss"]), "lr": figures["lr"]}
        entry |= journal.figures()
    judged = job.selects_on if state.is_due(config.eval_every, config) else None
    saves = judged is not None or state.is_due(config.checkpoint_every, config)
    if ranks.is_first:
        warnings = [warning] if warning else []
        if judged is not None:
            entry |= _evaluate(job, judged, state, run, journal)
            warnings += [_FALLING] if state.has_only_fallen else []
        for found in warnings:
            journal.print(f"warning: step {state.step}: {found}")
        if warnings:
            entry["warning"] = "; ".join(warnings)
        journal.write(entry)
        if saves:
            _save(job, state, scaler, run, ranks.world)
    return saves and bool(ranks.broadcast(state.stops_early(config)))


def _evaluate(
    job: Job, judged: ImageSet, state: State, run: RunFolder, journal: Journal
) -> dict[str, dict[str, float]]:
    """Evaluates retrieval on the images that select the weights, and records the result in the state."""
    by_paper = job.config.protocol == "paper"
    vectors, images = job.embed(judged)
    figures = measure_retrieval(vectors, images, job.dataset.recall_at if by_paper else (1,))
    # The paper keeps the best Recall@1. On few held-out classes Recall@1 is soon near 1, while MAP@R still differs.
    # Fine-tuning can raise MAP@R and lower Recall@1, which are then not better than what the user started with.
    is_candidate = by_paper or figures["recall_at_1"] >= _recall_at_start(run)
    state.record_evaluation(figures["recall_at_1"] if by_paper else figures["map_at_r"], is_candidate=is_candidate)
    side = "test" if by_paper else "validation"
    journal.print(
        f"  step {state.step} of {state.end(job.config)}: Recall@1 {figures['recall_at_1']:.3f}, "
        f"MAP@R {figures['map_at_r']:.3f} on {'TEST' if by_paper else 'held-out training'} classes"
    )
    return {side: figures}


def _recall_at_start(run: RunFolder) -> float:
    """The Recall@1 on the held-out classes at step 0; 0 if it is not in the log."""
    found = (entry["validation"]["recall_at_1"] for entry in run.read_log() if "validation" in entry)
    return float(next(found, 0.0))


def _save(job: Job, state: State, scaler: torch.amp.GradScaler, run: RunFolder, processes: int) -> None:
    """Writes the checkpoint of this step, and removes all except for the newest two and the best one of each."""
    state.processes = processes
    state.scaler = scaler.state_dict()
    clock = job.clock
    state.waiting_seconds, state.model_seconds, state.decoding_seconds = clock.waiting, clock.computing, clock.decoding
    state.broken = {str(path): reason for path, reason in job.broken.items()}
    tensors = checkpoint.collect(job.model, job.loss, job.optimizer, job.average)
    if not all_finite(tensors.values()):
        raise NotFinite("the weights are NaN or infinite")
    save_tensors(checkpoint.checkpoint_path(run.checkpoints, state.step), tensors, state.as_json())
    # With that of the checkpoint before, so that the run can be resumed from there.
    checkpoint.prune(run.checkpoints, keep={step for step in (state.best_step, state.saved_best) if step is not None})
    state.saved_best = state.best_step


@torch.no_grad()
def follow(average: EmbeddingModel, model: EmbeddingModel, decay: float, step: int) -> None:
    """Updates the average: average = m average + (1 - m) weights, m = min(decay, (1 + step) / (10 + step)).

    The smaller m of the early steps makes the average forget the initial weights quickly. Batch norm statistics are
    averaged like weights; counters are copied.

    Args:
        average: the average, updated in place.
        model: the model after the step.
        decay: the maximum of m, between 0 and 1.
        step: the number of finished steps, 1 or more.

    Source: Polyak & Juditsky, "Acceleration of Stochastic Approximation by Averaging", 1992, in the exponential form.
    Differs from the source: the mean is exponential, and its decay is smaller in the early steps.
    """
    keep = min(decay, (1 + step) / (10 + step))
    current = model.state_dict()
    for name, mean in average.state_dict().items():
        if mean.is_floating_point():
            mean.lerp_(current[name], 1 - keep)
        else:
            mean.copy_(current[name])
