"""The required speeds, and a verdict for every measurement that a requirement (a bar) applies to."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from harness import ratio

COMPARED = 4  # images of a class for which the incumbent is timed as well
SMALL, LARGE = 128, 1024  # the batch sizes with bars against the Gram product
OF_GRAM_LARGE = {2: 3.0, 4: 4.0}  # times the Gram product at n = 2, by images of a class
OF_GRAM_SMALL = 8.0
MORE_POINTS = {2: 5.0, 4: 6.0}  # the same at n = 8; infinity has no bar
MORE_IMAGES = {8: 4.0, 32: 15.0}  # the same at n = 2


class Verdict(NamedTuple):
    search: str  # the judged form of the search
    bar: str
    what: str
    measured: str
    met: bool


def verdicts(report: dict[str, Any]) -> list[Verdict]:
    """Return every bar with each of its measurements, for every form of the search that was timed."""
    found: list[Verdict] = []
    for result in report["results"]:
        for search in report["searches"] if result.get("expandable", True) else report["searches"][:1]:
            found += _of_losses(result, search) if result["part"] == "losses" else _of_scaling(result, search)
    return sorted(found, key=lambda verdict: verdict.met)


def _of_losses(result: dict[str, Any], search: str) -> Iterator[Verdict]:
    b, k, ours = result["b"], result["k"], f"{search} n=2" if result["expandable"] else "plain"
    if k == COMPARED and result["most"] is not None:
        yield _verdict(result, ours, "incumbent", result["most"])
    if not result["expandable"]:
        return
    if b == LARGE and k in OF_GRAM_LARGE:
        yield _verdict(result, ours, "gram", OF_GRAM_LARGE[k])
    if b == SMALL:
        yield _verdict(result, ours, "gram", OF_GRAM_SMALL)


def _of_scaling(result: dict[str, Any], search: str) -> Iterator[Verdict]:
    b, k = result["b"], result["k"]
    if b != LARGE:
        return
    if k in MORE_POINTS:
        yield _verdict(result, f"{search} n=8", "gram", MORE_POINTS[k])
    if k in MORE_IMAGES:
        yield _verdict(result, f"{search} n=2", "gram", MORE_IMAGES[k])


def _verdict(result: dict[str, Any], of: str, to: str, most: float) -> Verdict:
    """Return whether the median meets the bar; it also does if only the other side exceeded the limits."""
    kind = "clustered" if result["clustered"] else "unclustered"
    what = f"{result['loss']}, b = {result['b']}, K = {result['k']}, {kind}"
    bar = f"{of} at most {most:g} times {to}"
    form = of.partition(" ")[0]  # the form of the search, or "plain"
    measured, failures = ratio(result["times"], of, to), result["failures"]
    if measured is not None:
        return Verdict(form, bar, what, str(measured), measured.median <= most)
    met = of in result["times"] and to in failures
    return Verdict(form, bar, what, failures.get(of) or f"{to}: {failures.get(to)}", met)
