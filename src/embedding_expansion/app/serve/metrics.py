"""Metrics in the text format of Prometheus.

Four metrics do not justify a dependency on a client library.
"""

from __future__ import annotations

import math
import threading
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
SIZES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0)
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Histogram:
    """A Prometheus histogram: counts of values up to each bound, and their sum."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds, self._counts, self._sum = bounds, [0] * (len(bounds) + 1), 0.0

    def add(self, value: int | float) -> None:
        """Adds a value."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def lines(self, name: str, labels: Mapping[str, object]) -> Iterator[str]:
        """The samples of the histogram, as lines of text."""
        total = 0
        for bound, count in zip((*self._bounds, math.inf), self._counts, strict=True):
            total += count
            yield _sample(f"{name}_bucket", {**labels, "le": f"{bound:g}".replace("inf", "+Inf")}, total)
        yield _sample(f"{name}_sum", labels, self._sum)
        yield _sample(f"{name}_count", labels, total)


class Metrics:
    """Counts and durations of requests by route and status, and batch sizes. Safe to use from several threads."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._requests: Counter[tuple[str, str, int]] = Counter()
        self._seconds: dict[str, Histogram] = {}
        self._batches = Histogram(SIZES)

    def answered(self, method: str, route: str, status: int, seconds: float) -> None:
        """Counts a request and its duration."""
        with self._guard:
            self._requests[method, route, status] += 1
            self._seconds.setdefault(route, Histogram(SECONDS)).add(seconds)

    def embedded(self, size: int) -> None:
        """Counts a batch of this size."""
        with self._guard:
            self._batches.add(size)

    def text(self, gauges: Mapping[str, tuple[str, int | float]]) -> str:
        """Renders all metrics.

        Args:
            gauges: further metrics with their current values: name -> (help text, value).
        """
        with self._guard:
            requests = [
                _sample("embex_requests_total", {"method": method, "route": route, "status": status}, count)
                for (method, route, status), count in sorted(self._requests.items())
            ]
            seconds = [
                line
                for route, histogram in sorted(self._seconds.items())
                for line in histogram.lines("embex_request_seconds", {"route": route})
            ]
            batches = list(self._batches.lines("embex_batch_size", {}))
        lines = [
            *_family("embex_requests_total", "counter", "requests answered", requests),
            *_family(
                "embex_request_seconds", "histogram", "seconds from a request to the end of its response", seconds
            ),
            *_family("embex_batch_size", "histogram", "images per batch of the model", batches),
        ]
        for name, (meaning, value) in gauges.items():
            lines += _family(name, "gauge", meaning, [_sample(name, {}, value)])
        return "\n".join(lines) + "\n"


def _family(name: str, kind: str, meaning: str, samples: Iterable[str]) -> list[str]:
    return [f"# HELP {name} {meaning}", f"# TYPE {name} {kind}", *samples]


def _sample(name: str, labels: Mapping[str, object], value: int | float) -> str:
    inside = ",".join(f'{key}="{_escaped(str(text))}"' for key, text in labels.items())
    return f"{name}{{{inside}}} {value:.12g}" if inside else f"{name} {value:.12g}"


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
