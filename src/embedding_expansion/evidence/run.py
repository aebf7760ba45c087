"""One run of the grid: trained by the loop of `embex train`, measured on held-out and on test classes."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import resource
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from embedding_expansion.data.images import Dataset
from embedding_expansion.evidence.faults import with_fault
from embedding_expansion.evidence.views import Views
from embedding_expansion.model.network import NotFinite
from embedding_expansion.retrieval.clustering import clustering_metrics
from embedding_expansion.retrieval.metrics import retrieval_values
from embedding_expansion.runs.options import TrainConfig
from embedding_expansion.runs.run_folder import RunFolder
from embedding_expansion.training.collapse import COINCIDE
from embedding_expansion.training.cross_validation import class_folds, curve
from embedding_expansion.training.head import start_head
from embedding_expansion.training.job import Job, prepare
from embedding_expansion.training.loop import run_steps
from embedding_expansion.training.ranks import Ranks
from embedding_expansion.training.split import Split
from embedding_expansion.training.state import State

_BY_CLASS = ("recall_at_1", "map_at_r")
_MEASURES = (*_BY_CLASS, "nmi", "f1")


@dataclass(frozen=True)
class Material:
    """What the runs on a data set share.

    Attributes:
        dataset: the data set.
        views: the features of a frozen backbone; None if the network is trained from its images.
    """

    dataset: Dataset
    views: Views | None = None


class RunStopped(Exception):
    """A signal has stopped a run, which then has no record.

    Args:
        signal: the number of the signal.
    """

    def __init__(self, signal: int) -> None:
        super().__init__(f"stopped by signal {signal}")
        self.signal = signal


def run(config: TrainConfig, material: Material, fault: str, *, tests: bool) -> dict[str, Any]:
    """Trains and measures.

    A fifth of the training classes is held out, see `_split`, and always measured. They have no faults.

    Args:
        config: the configuration.
        material: the data.
        fault: what is wrong with the training images, see `faults.py`.
        tests: whether the test classes are measured, after the last step.

    Returns:
        The record: measures of the held-out classes ("held_out": step, Recall@1 and MAP@R at each evaluation) and of
        the test classes ("test", and "by_class" in the order of the classes), the seconds of the training steps, the
        most memory that the process has had, and the course of the balance. A training that diverged says why.

    Raises:
        RunStopped: SIGINT or SIGTERM has stopped the training.
    """
    clean = _split(material.dataset, config.seed)
    faulty, rows = with_fault(clean.train, fault, config.seed)
    split = dataclasses.replace(clean, train=faulty, classes=faulty.classes)
    job = prepare(config, split, fetch_weights=material.views is None)
    if material.views is not None:
        _take_features(job, material, np.flatnonzero(np.isin(material.dataset.train.labels, clean.train.classes))[rows])
    state = State(config.optimizer.name)
    diverged = ""
    with tempfile.TemporaryDirectory() as folder, open(os.devnull, "w", encoding="utf-8") as nowhere:
        folder_of_run = RunFolder(Path(folder) / "run")
        with contextlib.redirect_stdout(nowhere):
            folder_of_run.create(config)
            start_head(job)
            try:
                if number := run_steps(job, state, folder_of_run, Ranks()):
                    raise RunStopped(number)
            except NotFinite as error:
                diverged = str(error)
        record = _of_log(folder_of_run)
        folder_of_run.release()
    if tests and not diverged:
        record |= _tested(job)
    return record | {
        "steps": config.steps,
        "seconds": round(state.training_seconds, 2),
        "memory_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        **({"diverged": diverged} if diverged else {}),
    }


def _split(dataset: Dataset, seed: int) -> Split:
    """The classes to train on and those that are held out.

    The training classes are five blocks of neighbours by name, as `embex train` holds them out. The trials, of seed 0,
    hold out the first block, and the other seeds the other four in turn. So no class that tuned an arm also judges it.
    """
    first, *others = class_folds(dataset, 5, None, 0)
    return others[(seed - 1) % len(others)] if seed else first


def _take_features(job: Job, material: Material, rows: npt.NDArray[Any]) -> None:
    """Gives a job the features of its images: all views of those to train on, and one view of the others."""
    views, images = material.views, material.dataset.train
    assert views is not None
    assert job.validation is not None
    held = np.flatnonzero(np.isin(images.labels, job.validation.classes))
    chosen = torch.from_numpy(rows)
    views = Views(views.train.to(job.device), views.test.to(job.device))
    job.views = views.train[:, chosen]
    job.features = {
        (id(job.train), False): (views.train[0, chosen], job.train),
        (id(job.validation), False): (views.train[0, torch.from_numpy(held)], job.validation),
        (id(job.dataset.test), False): (views.test, job.dataset.test),
    }


def _of_log(run: RunFolder) -> dict[str, Any]:
    held_out = [[step, *(round(found[name], 4) for name in _BY_CLASS)] for step, found in sorted(curve(run).items())]
    record: dict[str, Any] = {"held_out": held_out}
    logged = [entry for entry in run.read_log() if "loss" in entry]
    if balance := [entry["balance"] for entry in logged if "balance" in entry]:
        record["share"] = [_digits(entry["share"]) for entry in balance]
        record["forces"] = {name: _digits(value) for name, value in balance[0].items() if name != "share"}
    if synthetic := [entry["synthetic_share"] for entry in logged if "synthetic_share" in entry]:
        record["synthetic"] = [_digits(value) for value in synthetic]
    if run.has_warned(COINCIDE):
        record["coincides"] = True
    return record


def _tested(job: Job) -> dict[str, Any]:
    vectors, images = job.embed(job.dataset.test)
    found = retrieval_values(vectors, images.labels, (1,), is_query=images.is_query, is_gallery=images.is_gallery)
    clusters = clustering_metrics(vectors, images.labels, seed=job.config.seed)
    labels = images.labels if images.is_query is None else images.labels[images.is_query]
    means = {name: float(np.nanmean(found[name])) for name in _BY_CLASS}
    return {
        "test": {name: round(value, 5) for name, value in (means | clusters).items() if name in _MEASURES},
        "by_class": {name: _thousandths(found[name], labels) for name in _BY_CLASS},
    }


def _thousandths(values: npt.NDArray[np.float64], labels: npt.NDArray[Any]) -> list[int | None]:
    """The mean of each class in ascending order, in thousandths; None for a class without a value."""
    means = (values[labels == label] for label in np.unique(labels))
    return [None if np.isnan(own).all() else round(1000 * float(np.nanmean(own))) for own in means]


def _digits(value: float) -> float:
    return float(f"{value:.3g}")
