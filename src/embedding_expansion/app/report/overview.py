"""The sections of the report that need only the files of a run: metrics, curves and environment."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from typing import Any

from embedding_expansion.app.pages.charts import Chart, chart, thin
from embedding_expansion.data.finding import is_vector_file
from embedding_expansion.runs.options import TrainConfig
from embedding_expansion.training import baselines
from embedding_expansion.training.factory import BY_NAME

Log = list[dict[str, Any]]
TRAINED = "trained"
ROWS = 40  # maximum number of rows in the table of the curves


@dataclass(frozen=True)
class Measure:
    """A metric on the test classes before and after training.

    Attributes:
        name: its name.
        meaning: a sentence that explains it.
        values: its value for each baseline and for the trained network, with the name of each; None if it was not
            measured.
    """

    name: str
    meaning: str
    values: list[tuple[str, float | None]]

    @property
    def bars(self) -> list[tuple[str, float]]:
        """The measured values with their names."""
        return [(name, value) for name, value in self.values if value is not None]


_MEANINGS = {
    "map_at_r": ("MAP@R", "How early the images of the class are ranked; 1 if they all come first."),
    "nmi": ("NMI", "Agreement of k-means clusters with the classes, from 0 to 1."),
    "f1": ("F1", "Agreement of pairs in the same cluster with pairs in the same class."),
    "r_precision": ("R-precision", "Share of correct images among the R nearest, where R images are correct."),
    "precision_at_1": ("Precision@1", "Recall@1 without queries that have no match in the gallery."),
    "ami": ("AMI", "NMI corrected for chance."),
}


def measures(before: dict[str, Any], after: dict[str, Any]) -> list[Measure]:
    """All metrics: Recall@1, MAP@R, NMI and F1 first, then the others."""
    known = {key: before[key] for key in baselines.TITLES if isinstance(before.get(key), dict)}
    groups = {baselines.title(key, group): _figures(group) for key, group in known.items()}
    groups[TRAINED] = _figures(after)
    present = {name for group in groups.values() for name in group}
    recalls = sorted(
        (name for name in present if re.fullmatch(r"recall_at_[1-9][0-9]{0,6}", name)),
        key=lambda name: int(name.rsplit("_", 1)[1]),
    )
    order = [*recalls[:1], *(name for name in ("map_at_r", "nmi", "f1") if name in present), *recalls[1:]]
    order += [name for name in _MEANINGS if name in present and name not in order]
    return [Measure(*_named(name), [(who, group.get(name)) for who, group in groups.items()]) for name in order]


def _figures(group: object) -> dict[str, float]:
    """The numbers in a group of metrics."""
    return {name: value for name, value in group.items() if _is_number(value)} if isinstance(group, dict) else {}


def _named(name: str) -> tuple[str, str]:
    if name in _MEANINGS:
        return _MEANINGS[name]
    k = name.rsplit("_", 1)[1]
    where = "the nearest image has" if k == "1" else f"one of the {k} nearest images has"
    return f"Recall@{k}", f"Share of queries for which {where} the same class."


def curves(log: Log, kept: int | None) -> list[Chart]:
    """The charts that have data."""
    side = "test" if any("test" in entry for entry in log) else "validation"
    of = "test classes" if side == "test" else "held-out training classes"
    judged = [(entry["step"], entry[side]) for entry in log if isinstance(entry.get(side), dict)]
    shares = {"anchors with a loss": _series(log, "active_share"), "synthetic points": _series(log, "synthetic_share")}
    drawn = [
        chart("Loss", {"loss": _series(log, "loss")}, mark=kept),
        chart(f"Retrieval on {of}", _quality(judged), mark=kept),
        chart("Retrieval on training classes held out in turn", _quality(_of_folds(log)), mark=kept),
        chart("Shares of a batch", shares, bounds=(0.0, 1.0), mark=kept),
        chart("Share of the pull that balance keeps", {"share": _balance(log, "share")}, bounds=(0.0, 1.0), mark=kept),
        chart("Pull and push of a batch", {name: _balance(log, name) for name in ("pull", "push")}, mark=kept),
        chart("Learning rate", {"learning rate": _series(log, "lr")}, mark=kept),
    ]
    return [each for each in drawn if each is not None]


def _quality(judged: list[tuple[int, dict[str, Any]]]) -> dict[str, list[tuple[float, float]]]:
    return {
        title: [(float(step), float(figures[name])) for step, figures in judged if _is_number(figures.get(name))]
        for title, name in (("Recall@1", "recall_at_1"), ("MAP@R", "map_at_r"))
    }


def _of_folds(log: Log) -> list[tuple[int, dict[str, Any]]]:
    """The mean measures of a cross-validation at each step."""
    found: dict[str, Any] = next((entry["folds"] for entry in log if isinstance(entry.get("folds"), dict)), {})
    return [(int(step), figures) for step, figures in found.get("curve", {}).items()]


def warnings(log: Log) -> list[tuple[int, str]]:
    """The warnings of the run and their steps."""
    return [(entry["step"], entry["warning"]) for entry in log if isinstance(entry.get("warning"), str)]


def table(log: Log) -> tuple[list[str], list[list[str]]]:
    """The numbers behind the charts: column names, and at most 40 evenly spaced rows."""
    names = {"loss": "loss", "lr": "learning rate", "active_share": "active", "synthetic_share": "synthetic"}
    rows: list[tuple[float, dict[str, Any]]] = []
    for entry in log:
        judged = entry.get("validation", entry.get("test"))
        figures = {title: entry[name] for name, title in names.items() if _is_number(entry.get(name))}
        if isinstance(group := entry.get("balance"), dict):
            figures["balance"] = group.get("share")
        if isinstance(judged, dict):
            figures |= {"Recall@1": judged.get("recall_at_1"), "MAP@R": judged.get("map_at_r")}
        if figures:
            rows.append((entry["step"], figures))
    columns = [
        name for name in (*names.values(), "balance", "Recall@1", "MAP@R") if any(name in row for _, row in rows)
    ]
    chosen = [rows[round(place)] for place, _ in thin([(float(place), 0.0) for place in range(len(rows))], ROWS)]
    shown = [[f"{step:g}", *(_short(row.get(name)) for name in columns)] for step, row in chosen]
    return ["step", *columns], shown


def _series(log: Log, name: str) -> list[tuple[float, float]]:
    return [(float(entry["step"]), float(entry[name])) for entry in log if _is_number(entry.get(name))]


def _balance(log: Log, name: str) -> list[tuple[float, float]]:
    groups = [(entry["step"], entry["balance"]) for entry in log if isinstance(entry.get("balance"), dict)]
    return [(float(step), float(group[name])) for step, group in groups if _is_number(group.get(name))]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 2**63


def _short(value: object) -> str:
    return f"{value:.4g}" if _is_number(value) else ""


def title(config: TrainConfig, data: str) -> str:
    """The title of the report: loss and data set."""
    expansion, name = config.expansion.resolved, str(config.loss["name"])
    loss = BY_NAME[name].__name__ if name in BY_NAME else name
    form = "" if expansion.form == "paper" else f"{str(expansion.form).replace('_', ' ')}, "
    expanded = "" if expansion.is_plain else f" with embedding expansion ({form}n = {expansion.n})"
    by_method = f" with the method {config.method['name']}" if config.has_method else ""
    return f"{loss}{expanded}{by_method} on {data}"


def facts(config: TrainConfig, metrics: dict[str, Any] | None, log: Log) -> list[tuple[str, str]]:
    """Key facts of the run, as terms and values."""
    sampler = config.sampler
    kind = "vectors" if is_vector_file(config.data.name) else "images"
    done = (
        metrics["steps"]
        if metrics and _is_number(metrics.get("steps"))
        else max((entry["step"] for entry in log), default=0)
    )
    result = [
        ("network", str(config.model)),
        ("batches", f"{sampler.classes_per_batch} classes × {sampler.images_per_class} {kind}"),
        ("steps", _steps(done, config)),
        ("optimiser", f"{config.optimizer.name} at {config.optimizer.lr:g}"),
        ("seed", str(config.seed)),
    ]
    if kind == "images":
        result.insert(1, ("images", f"{config.data.image_size} pixels"))
    if metrics:
        result += [
            ("time", _duration(metrics["wall_seconds"])),
            ("speed", f"{metrics['images_per_second']:.0f} {kind} a second"),
        ]
        if prepared := metrics.get("prepared"):
            result.insert(1, ("prepared", prepared))
    return result


def _steps(done: int, config: TrainConfig) -> str:
    if done == config.steps:
        return str(done)
    return f"{done}, the best of up to {config.steps}" if config.protocol == "folds" else f"{done} of {config.steps}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"


def surroundings(environment: dict[str, Any]) -> list[tuple[str, str]]:
    """environment.json as rows of a table, the command first. Unknown entries are shown unchanged."""
    rows: list[tuple[str, str]] = []
    for name, value in environment.items():
        if name == "command" and isinstance(value, list):
            rows.insert(0, ("command", shlex.join(map(str, value))))
        elif isinstance(value, dict):
            rows += [(str(key), _text(inner)) for key, inner in value.items()]
        elif name == "resumed" and isinstance(value, list):
            steps = [each["after_step"] for each in value if isinstance(each, dict) and "after_step" in each]
            rows += [("resumed", f"after step {step}") for step in steps]
        else:
            rows.append((name, _text(value)))
    return rows


def _text(value: object) -> str:
    return "—" if value is None else str(value)
