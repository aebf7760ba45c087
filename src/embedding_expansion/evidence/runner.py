"""Runs cells of the grid on this machine, with the data sets and features that they share in memory."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from embedding_expansion.data.images import Dataset
from embedding_expansion.evidence.grid import HEADS, Cell, Options, Regime
from embedding_expansion.evidence.results import Record
from embedding_expansion.evidence.run import Material, run
from embedding_expansion.evidence.settings import configuration, described
from embedding_expansion.evidence.views import Views, views_of
from embedding_expansion.model.trained import find_device
from embedding_expansion.runs.options import TrainConfig
from embedding_expansion.runs.run_lock import waiting_for
from embedding_expansion.training.environment import commit
from embedding_expansion.training.split import open_data


class GridRunner:
    """Runs cells; opens each data set, and computes its features, when the first run needs them.

    Args:
        scratch: a folder for features.
        own: options of this machine for each data set, such as `data.root` and `model.weights`.
    """

    def __init__(self, scratch: Path, own: Mapping[str, Options]) -> None:
        self._scratch, self._own = scratch, own
        self._materials: dict[tuple[str, bool], Material] = {}
        self._commit = commit()
        self._machine = _machine()
        torch.set_num_threads(1)

    def __call__(self, regime: Regime, cell: Cell, values: dict[str, float]) -> Record:
        """Runs a cell with its learning rate and loss parameter; returns its record."""
        config = configuration(cell, regime, values, self._own.get(regime.data, {}))
        material = self._material(regime, config)
        began = time.perf_counter()
        record = run(config, material, regime.fault, tests=cell.setting != "trial")
        return {
            "key": cell.key,
            "seed": config.seed,
            "values": values,
            "options": described(config),
            "wall_seconds": round(time.perf_counter() - began, 2),
            "commit": self._commit,
            "machine": self._machine,
        } | record

    def _material(self, regime: Regime, config: TrainConfig) -> Material:
        key = regime.data, regime.is_head
        if key not in self._materials:
            dataset = open_data(config.data)
            size = HEADS["data.image_size"]
            path = self._scratch / f"{regime.data}-{HEADS['model.backbone']}-{size}.safetensors"
            views = self._views(dataset, config, path) if regime.is_head else None
            self._materials[key] = Material(dataset, views)
        return self._materials[key]

    def _views(self, dataset: Dataset, config: TrainConfig, path: Path) -> Views:
        """The features, which one process computes while the others wait."""
        with waiting_for(self._scratch, f"{path.stem}.lock"):
            return views_of(dataset, config, path)


def _machine() -> dict[str, Any]:
    """What the times depend on."""
    device = find_device("auto")
    on_gpu = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if on_gpu else _processor(),
        "cpus": os.cpu_count(),
        "torch": torch.__version__,
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())
