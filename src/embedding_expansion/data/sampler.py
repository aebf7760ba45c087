"""P x K batches: K images of each of P classes, which depend only on the seed and the step."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from embedding_expansion.checks import as_whole, validates
from embedding_expansion.errors import InvalidInput

_CLASSES, _IMAGES, _REPEATED = 0, 1, 2  # keep the random streams apart


class ClassBalancedSampler:
    """Makes batches of `classes_per_batch` classes with `images_per_class` images each.

    `batch(step)` is a pure function of the seed and the step. A run can therefore resume at any step, and every rank of
    a distributed run computes the same batch and uses its rows of it. Classes come in rounds: each class is seen once
    before any class comes again. No class occurs twice in a batch, even in one that spans two rounds. The images of a
    class come in rounds by the same rule. If a class has fewer than `images_per_class` images, they are repeated;
    within a batch, the numbers of their occurrences differ by at most one.

    Args:
        labels: (n,), whole numbers, the class of each image.
        classes_per_batch: P, the number of classes in a batch.
        images_per_class: K, the number of images of each class in a batch.
        seed: of the random order, 0 or more.

    Raises:
        InvalidInput: P or K is below 1, the seed is negative, or there are fewer than P classes.

    Example:
        >>> labels = np.array([0, 0, 0, 1, 1, 1])
        >>> batch = ClassBalancedSampler(labels, classes_per_batch=2, images_per_class=2, seed=0).batch(step=7)
        >>> len(set(batch.tolist())), sorted(labels[batch].tolist())
        (4, [0, 0, 1, 1])
    """

    @validates
    def __init__(self, labels: npt.NDArray[Any], classes_per_batch: int, images_per_class: int, seed: int) -> None:
        classes_per_batch = as_whole(classes_per_batch, "classes_per_batch", least=1)
        images_per_class = as_whole(images_per_class, "images_per_class", least=1)
        seed = as_whole(seed, "seed", least=0)
        labels = np.asarray(labels)
        order = np.argsort(labels, kind="stable").astype(np.int64)
        classes, starts = np.unique(labels[order], return_index=True)
        if len(classes) < classes_per_batch:
            raise InvalidInput(
                f"{classes_per_batch} classes per batch were asked for but the images have {len(classes)} classes; "
                f"ask for at most {len(classes)}"
            )
        self.classes_per_batch = classes_per_batch
        self.images_per_class = images_per_class
        self.seed = seed
        self._members = np.split(order, starts[1:])
        self._class_cycle: tuple[int, npt.NDArray[np.int64]] = (-1, np.empty(0, dtype=np.int64))
        self._image_cycles: dict[int, tuple[int, npt.NDArray[np.int64]]] = {}

    @property
    def batch_size(self) -> int:
        """The number of images in a batch, P * K."""
        return self.classes_per_batch * self.images_per_class

    @validates
    def batch(self, step: int) -> npt.NDArray[np.int64]:
        """The indices of the images of batch `step`, shape (P * K,); the images of a class are consecutive."""
        step, classes = as_whole(step, "step", least=0), len(self._members)
        steps, rounds = _cycle_length(classes, self.classes_per_batch)
        cycle, within = divmod(step, steps)
        if self._class_cycle[0] != cycle:
            self._class_cycle = cycle, _cycle([self.seed, _CLASSES, cycle], classes, self.classes_per_batch)
        first = within * self.classes_per_batch
        rows = []
        for position in range(first, first + self.classes_per_batch):
            visit = cycle * rounds + position // classes  # a round visits every class once
            rows.append(self._images(int(self._class_cycle[1][position]), visit))
        return np.concatenate(rows)

    def _images(self, number: int, visit: int) -> npt.NDArray[np.int64]:
        """The images of class `number` in its `visit`-th appearance."""
        members = self._members[number]
        repeats, take = divmod(self.images_per_class, len(members))
        chosen = self._next_images(number, visit, take) if take else np.empty(0, dtype=np.int64)
        if repeats:
            rng = np.random.default_rng([self.seed, _REPEATED, number, visit])
            chosen = rng.permutation(np.concatenate([np.tile(np.arange(len(members)), repeats), chosen]))
        return members[chosen]

    def _next_images(self, number: int, visit: int, take: int) -> npt.NDArray[np.int64]:
        """The next `take` positions within a class; the cycle of each class is cached until the next one begins."""
        count = len(self._members[number])
        visits, _ = _cycle_length(count, take)
        cycle, within = divmod(visit, visits)
        kept = self._image_cycles.get(number)
        if kept is None or kept[0] != cycle:
            kept = cycle, _cycle([self.seed, _IMAGES, number, cycle], count, take)
            self._image_cycles[number] = kept
        return kept[1][within * take : (within + 1) * take]


def _cycle_length(count: int, take: int) -> tuple[int, int]:
    """The numbers of draws of `take` out of `count`, and of rounds, after which a draw ends exactly with a round."""
    common = math.gcd(count, take)
    return count // common, take // common


def _cycle(key: list[int], count: int, take: int) -> npt.NDArray[np.int64]:
    """Consecutive rounds (permutations of 0..count-1) in which no draw of `take` holds a number twice.

    If a draw spans two rounds, the numbers that it holds of the first round are moved back in the second.
    """
    rng = np.random.default_rng(key)
    _, rounds = _cycle_length(count, take)
    stream = np.empty(rounds * count, dtype=np.int64)
    for start in range(0, rounds * count, count):
        order = rng.permutation(count)
        held = start % take
        if held:
            fresh = np.flatnonzero(~np.isin(order, stream[start - held : start]))[: take - held]
            order = np.concatenate([order[fresh], np.delete(order, fresh)])
        stream[start : start + count] = order
    return stream
