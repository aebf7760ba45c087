"""Says whether a run waited for its images or for the model, and what to do about the former."""

from __future__ import annotations

import os
import shlex
from typing import Any

from embedding_expansion.data.preparing import SIZE, default_folder
from embedding_expansion.data.preprocessing import Preprocessing
from embedding_expansion.runs.options import DataConfig
from embedding_expansion.training.job import Job
from embedding_expansion.training.recipe import short_side

#: The share of the time, or of the processors on which the model computes, above which decoding holds a run up.
MUCH = 0.1


def bottleneck(job: Job) -> dict[str, Any]:
    """What a run waited for, over all its passes over images: training, evaluations, and features.

    Where the model computes on the CPU, decoding slows it down even if no step waits, because both share the
    processors. Therefore the sentence also tells what decoding took of them.

    Returns:
        `waiting_share` of the time, and `waiting_seconds`, `model_seconds` and `decoding_cpu_seconds`; for a model on
        the CPU also `decoding_cpu_share`, of what all processors can do; and `sentence`. Empty if the images are in
        memory.
    """
    clock, config = job.clock, job.config
    if job.dataset.train.paths is None or not clock.computing:
        return {}
    share, processors = clock.share, os.cpu_count() or 1
    found: dict[str, Any] = {
        "waiting_share": round(share, 4),
        "waiting_seconds": round(clock.waiting, 2),
        "model_seconds": round(clock.computing, 2),
        "decoding_cpu_seconds": round(clock.decoding, 2),
    }
    sentence = f"of the time with images, {share:.0%} was spent waiting for them and {1 - share:.0%} in the model"
    taken = 0.0
    if job.device.type == "cpu":
        taken = min(1.0, clock.decoding / ((clock.waiting + clock.computing) * processors))
        found["decoding_cpu_share"] = round(taken, 4)
        sentence += f", and decoding took {taken:.0%} of the processors"
    if max(share, taken) < MUCH:
        return found | {"sentence": f"{sentence}: the model is what takes the time"}
    ways = _ways(job, workers=config.data.workers or 0, waits=share >= MUCH, processors=processors)
    advice = f"; to be faster, {' or '.join(ways)}" if ways else ""
    return found | {"sentence": f"{sentence}: the images hold it up{advice}"}


def _ways(job: Job, *, workers: int, waits: bool, processors: int) -> list[str]:
    ways = []
    size = max(SIZE, needed_side(job.config.data))
    if job.dataset.prepared is None and short_side(job.dataset.train) > size:
        ways.append(f"shrink the images once with {_command(job.config.data, size)}")
    if waits and workers < processors:
        ways.append(f"raise --data.workers (now {workers})")
    return ways


def _command(data: DataConfig, size: int) -> str:
    """The command that shrinks the images of a run, and where it puts them."""
    options = [*(["--size", str(size)] if size != SIZE else []), *(["--part"] if data.part else [])]
    options += [] if data.root is None else ["--root", data.root]
    options += [] if data.train_classes is None else ["--train_classes", str(data.train_classes)]
    command = shlex.join(["embex", "data", "prepare", data.name, *options])
    return f"`{command}` and train with --data {shlex.quote(str(default_folder(data.name, size)))}"


def needed_side(data: DataConfig) -> int:
    """The short side that images need so that the test transform of a run does not enlarge them."""
    preprocessing = Preprocessing.of(int(data.image_size or 1), str(data.transform))
    return max(preprocessing.size, preprocessing.short_side or 0)


def warnings_of_prepared(job: Job) -> list[str]:
    """What is wrong with a set of shrunk images: it is too small for the model, or its originals have changed."""
    prepared = job.dataset.prepared
    if prepared is None:
        return []
    needed, found = needed_side(job.config.data), [prepared.changes()]
    if prepared.size < needed:
        found.append(
            f"the images were shrunk to a short side of {prepared.size} pixels, but {needed} are needed; prepare them "
            f"with --size {needed}, or train with a smaller --data.image_size"
        )
    return [sentence for sentence in found if sentence]
