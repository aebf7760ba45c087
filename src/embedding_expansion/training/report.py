"""The output of a run on the terminal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from embedding_expansion.core.search import describe
from embedding_expansion.data.images import ImageSet
from embedding_expansion.data.loader import broken_sentence
from embedding_expansion.generation.method import Method
from embedding_expansion.runs.options import ExpansionConfig
from embedding_expansion.runs.run_folder import RunFolder
from embedding_expansion.training.bottleneck import warnings_of_prepared
from embedding_expansion.training.job import Job
from embedding_expansion.training.ranks import batch_norm_warning
from embedding_expansion.training.state import State


def print_setup(job: Job, state: State, world: int) -> None:
    """Prints data, loss, model, training and machine."""
    config = job.config
    held = f"; {_size(job.validation)} held out to select the weights by MAP@R" if job.validation is not None else ""
    print(f"data: {job.dataset.name}; {_size(job.train)} train{held}; {_size(job.dataset.test)} test")
    if job.dataset.prepared is not None:
        print(f"images: {job.dataset.prepared.described}")
    if job.dataset.left_out:
        print(job.dataset.left_out)
    given = "".join(f", {name} {value}" for name, value in config.loss.items() if name != "name")
    more = "" if config.miner.name == "none" else f", miner {config.miner.name}"
    more += "" if config.memory.size == "none" else f", memory of {config.memory.size} embeddings"
    with_what = _method(job) if isinstance(job.loss, Method) else _expansion(config.expansion)
    print(f"loss: {config.loss['name']}{given}; {with_what}{more}")
    print(f"model: {config.model.backbone}, {job.model.dimensions} dimensions, {_input(job)}")
    if job.model.assumed:
        print(f"assumed: {job.model.assumed}")
    batch = f"{config.sampler.classes_per_batch} classes x {config.sampler.images_per_class} images"
    optimizer = f"{config.optimizer.name} at {config.optimizer.lr}"
    if config.optimizer.backbone_lr_factor != 1 and not config.model.freeze_backbone:
        optimizer += f" ({config.optimizer.lr * config.optimizer.backbone_lr_factor:.3g} for the backbone)"
    if config.model.freeze_backbone:
        optimizer += ", only the head, on the frozen features of the backbone"
    most = "up to " if config.protocol == "folds" else ""
    print(f"training: {most}{config.steps} steps of {batch}, {optimizer}, seed {config.seed}")
    extras = [f"average of the weights with decay {config.ema}"] if config.ema is not None else []
    extras += [f"only the head for {config.warmup_head} steps"] if config.warmup_head else []
    extras += ["evaluated with mirror images"] if config.flip else []
    if extras:
        print(f"also: {'; '.join(extras)}")
    processes = f"{world} processes, " if world > 1 else ""
    search = "" if config.expansion.search is None else f", search for hardest pairs: {describe(job.device.type)}"
    print(f"machine: {processes}{job.device}, {config.threads} threads, {job.precision}{search}", flush=True)
    if config.protocol == "paper":
        print(
            "note: the weights are selected on the TEST classes (the paper's protocol), so the numbers are optimistic"
        )
    for warning in _warnings_about(job):
        print(f"warning: {warning}")
    if warning := batch_norm_warning(job.network, job.device, world, job.batch_size):
        print(warning)
    if state.step:
        count = f"{world} process{'es' if world > 1 else ''}"
        other = f" with {count} instead of {state.processes}, which round differently"
        print(f"resuming after step {state.step}{other if state.processes != world else ''}", flush=True)


def _method(job: Job) -> str:
    given = "".join(f", {name} {value}" for name, value in job.config.method.items() if name != "name")
    own = sum(each.numel() for name, part in job.loss.named_children() if name != "loss" for each in part.parameters())
    return f"method {job.config.method['name']}{given}" + (f" with {own:,} parameters of its own" if own else "")


def _warnings_about(job: Job) -> list[str]:
    """What makes the measures of a run say little, or not what they seem to."""
    found = list[str]()
    if len(job.dataset.test.classes) < 2 and job.config.measure_test:
        found.append("the test set has only one class, so that any model finds it; add other classes")
    if job.validation is not None and job.selects_on is None:
        found.append(
            "the held-out training classes cannot be measured, because none has two images; the last weights are kept"
        )
    return found + warnings_of_prepared(job)


def print_metrics(title: str, measures: dict[str, Any]) -> None:
    """Prints a line of metrics under a title."""
    recalls = [f"Recall@{key.rsplit('_', 1)[1]} {value:.3f}" for key, value in measures.items() if "recall_at" in key]
    clusters = f"NMI {measures['nmi']:.3f}, F1 {measures['f1']:.3f}"
    print(f"{title}: {', '.join(recalls)}, {clusters}", flush=True)


def print_folds(found: dict[str, Any]) -> None:
    """Prints what a cross-validation has chosen."""
    curve, step = found["curve"], found["step"]
    start, highest = curve["0"]["map_at_r"], max(curve, key=lambda at: curve[at]["map_at_r"])
    if step:
        chosen = f"{curve[str(step)]['map_at_r']:.3f} after {step} steps, the best"
    elif highest == "0":
        chosen = "and not higher after any training"
    else:  # steps whose Recall@1 is lower than at the start are not chosen
        figures = curve[highest]
        chosen = f"{figures['map_at_r']:.3f} after {highest} steps, but Recall@1 fell from "
        chosen += f"{curve['0']['recall_at_1']:.3f} to {figures['recall_at_1']:.3f}, so the start is kept"
    print(f"cross-validation over the training classes: MAP@R {start:.3f} at the start, {chosen}", flush=True)


def print_comparison(title: str, before: dict[str, Any], after: dict[str, Any]) -> None:
    """Prints a table of the metrics that both dictionaries contain."""
    print(title)
    print(f"{'':<16}{'before':>8}{'after':>8}{'change':>9}")
    for name, value in after.items():
        if name in before:
            print(f"{_spelt(name):<16}{before[name]:>8.3f}{value:>8.3f}{value - before[name]:>+9.3f}")


def _spelt(name: str) -> str:
    return {"precision_at_1": "Precision@1", "r_precision": "R-precision", "map_at_r": "MAP@R"}.get(
        name, name.replace("recall_at_", "Recall@")
    )


def print_result(metrics: dict[str, Any], run: RunFolder) -> None:
    """Prints the final metrics and the run folder."""
    print_metrics("after training", metrics)
    step = metrics["selected_step"]
    which = f"weights of step {step}" if step else "the weights of the start (step 0), as no later ones were better"
    print(f"on {metrics['data']}; {which}, selected by {metrics['selected_by']}")
    if sentence := metrics.get("verdict", {}).get("sentence"):
        print(sentence)
    print(f"{metrics['images_per_second']:.0f} images per second in training, {metrics['wall_seconds']:.0f} s in all")
    if sentence := metrics.get("reading", {}).get("sentence"):
        print(sentence)
    if metrics["broken_images"]:
        print(broken_sentence(dict.fromkeys(map(Path, metrics["broken_images"]), "")))
    print(f"run folder: {run.path}", flush=True)


def _expansion(expansion: ExpansionConfig) -> str:
    expansion = expansion.resolved
    kind, search = "normalised" if expansion.normalize_synthetic else "not normalised", expansion.search
    if expansion.is_plain:
        return "plain"
    if search is None:
        return f"synthetic points join the batch, n = {expansion.n}, synthetic points {kind}"
    balance = {False: "", True: ", balanced", "sphere": ", balanced on the sphere"}[search.balance]
    selective = ", selective pull" if search.selective else ""
    return f"embedding expansion, n = {expansion.n}, scope {search.scope}{balance}{selective}, synthetic points {kind}"


def _input(job: Job) -> str:
    config = job.config
    if job.model.takes_vectors:
        return f"vectors of {config.model.channels} dimensions"
    return f"images of {config.data.image_size} pixels"


def _size(images: ImageSet) -> str:
    return f"{len(images.classes)} classes ({len(images)} {'vectors' if images.holds_vectors else 'images'})"
