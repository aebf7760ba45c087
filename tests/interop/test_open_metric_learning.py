"""Open Metric Learning takes our losses as its criterion, in code and by its configuration.

It asks for NumPy 1, so it lives in an environment of its own, which .ci/run makes; there these tests must run.
"""

from __future__ import annotations

import os
import re
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from embedding_expansion import EmbeddingExpansion, TripletLoss, open_dataset
from embedding_expansion.model.backbones import conv4

MUST_RUN = "open-metric-learning" in os.environ.get("EMBEX_MUST_RUN", "").split()
if find_spec("oml") is None and not MUST_RUN:
    pytest.skip("Open Metric Learning is not installed: it needs an environment of its own", allow_module_level=True)

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # its Lightning is of 2023
    import pandas as pd
    import pytorch_lightning as pl
    from oml.datasets import ImageLabeledDataset
    from oml.interfaces.models import IExtractor
    from oml.lightning.modules.extractor import ExtractorModule
    from oml.lightning.pipelines.train import extractor_training_pipeline
    from oml.registry.losses import LOSSES_REGISTRY, get_criterion_by_cfg
    from oml.samplers import BalanceSampler
    from torchvision.transforms import Compose, ToTensor

# They warn of few workers, of no validation data, of no process group, and of what later versions of torch renamed.
pytestmark = pytest.mark.filterwarnings("ignore:::(pytorch_lightning|oml)")


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few glyphs as image files, and the table in which it wants them."""
    folder, rows = tmp_path_factory.mktemp("glyphs"), []
    for split, images in (("train", open_dataset("glyphs").train), ("validation", open_dataset("glyphs").test)):
        for label in images.classes[:6]:
            for index in (images.labels == label).nonzero()[0][:6].tolist():
                name, held = f"{split}-{label}-{index}.png", split == "validation"
                Image.fromarray(images.load(index)[0].numpy()).convert("RGB").save(folder / name)
                own = {"is_query": True, "is_gallery": True} if held else {"is_query": None, "is_gallery": None}
                rows.append({"label": label + 1000 * held, "path": name, "split": split, **own})
    pd.DataFrame(rows).to_csv(folder / "df.csv", index=False)
    return folder / "df.csv"


class Extractor(IExtractor):
    """The small conv net, as Open Metric Learning wants a network of one's own."""

    feat_dim = 64

    def __init__(self) -> None:
        super().__init__()
        self.trunk = conv4()

    def forward(self, x: Tensor) -> Tensor:
        return self.trunk(x).mean(dim=(2, 3))


class Watched:
    """Keeps what a criterion was given, and what it gave."""

    def __init__(self, criterion: nn.Module) -> None:
        self.calls: list[tuple[Tensor, Tensor, Tensor]] = []
        criterion.register_forward_hook(
            lambda _, given, value: self.calls.append((given[0].detach(), given[1].detach(), value.detach()))
        )

    def check(self, loss: nn.Module) -> list[float]:
        """The values, each that of the loss called directly."""
        assert self.calls
        for embeddings, labels, value in self.calls:
            torch.testing.assert_close(value, loss(embeddings, labels))
        return [float(value) for _, _, value in self.calls]


def test_its_module_trains_with_an_expanded_loss_that_falls(table: Path, tmp_path: Path) -> None:
    pl.seed_everything(0)
    frame = pd.read_csv(table)
    frame = frame[frame["split"] == "train"].reset_index(drop=True)
    dataset = ImageLabeledDataset(frame, dataset_root=table.parent, transform=Compose([ToTensor()]))
    sampler = BalanceSampler(dataset.get_labels(), n_labels=4, n_instances=4)
    loader = torch.utils.data.DataLoader(dataset, batch_sampler=sampler)
    extractor = Extractor()
    before = [parameter.detach().clone() for parameter in extractor.parameters()]

    criterion = EmbeddingExpansion(TripletLoss(), n=2, statistics=True)
    criterion.criterion_name = "expanded"  # its name in the log
    criterion.last_logs = criterion.last_statistics  # and its figures
    watched = Watched(criterion)
    module = ExtractorModule(extractor, criterion, torch.optim.Adam(extractor.parameters(), lr=1e-3))
    trainer = pl.Trainer(
        max_steps=12, accelerator="cpu", logger=False, enable_checkpointing=False, default_root_dir=tmp_path
    )
    trainer.fit(module, loader)

    values = watched.check(EmbeddingExpansion(TripletLoss(), n=2))
    assert len(values) == 12
    assert sum(values[-3:]) < 0.7 * sum(values[:3])
    assert any(not torch.equal(a, b) for a, b in zip(before, extractor.parameters(), strict=True))
    logged = {name: float(value) for name, value in trainer.logged_metrics.items()}
    assert logged["expanded_loss_step"] == pytest.approx(values[-1])
    assert 0 <= logged["synthetic_share"] <= 1


def test_its_pipeline_trains_with_a_loss_that_its_configuration_names(
    table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Watched] = []

    def expanded_triplet(margin: float = 0.2, n: int = 2) -> nn.Module:
        criterion = EmbeddingExpansion(TripletLoss(margin), n=n)
        made.append(Watched(criterion))
        return criterion

    monkeypatch.setitem(LOSSES_REGISTRY, "expanded_triplet", expanded_triplet)
    monkeypatch.chdir(tmp_path)  # where it puts checkpoints
    transforms = {"name": "norm_resize_torch", "args": {"im_size": 32}}
    extractor = {"arch": "resnet18", "gem_p": None, "remove_fc": True, "normalise_features": True, "weights": None}
    configuration: dict[str, Any] = {
        "seed": 0,
        "accelerator": "cpu",
        "devices": 1,
        "num_workers": 0,
        "dataset_root": str(table.parent),
        "dataframe_name": table.name,
        "transforms_train": transforms,
        "transforms_val": transforms,
        "sampler": {"name": "balance", "args": {"n_labels": 3, "n_instances": 4}},
        "bs_val": 36,
        "extractor": {"name": "resnet", "args": extractor},
        "criterion": {"name": "expanded_triplet", "args": {"margin": 0.3}},
        "optimizer": {"name": "adam", "args": {"lr": 1e-3}},
        "max_epochs": 3,
        "valid_period": 3,
        "metric_args": {"metrics_to_exclude_from_visualization": [], "cmc_top_k": [1], "map_top_k": []},
        "metric_for_checkpointing": "OVERALL/cmc/1",
    }
    extractor_training_pipeline(configuration)

    (watched,) = made
    assert len(watched.check(EmbeddingExpansion(TripletLoss(0.3), n=2))) == 6
    assert (tmp_path / "checkpoints" / "best.ckpt").is_file()


def test_the_examples_of_the_page_run() -> None:
    page = (Path(__file__).parents[2] / "docs" / "integrations.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", page.partition("## Open Metric Learning")[2], re.DOTALL)
    names: dict[str, Any] = {"extractor": Extractor()}
    for block in blocks:
        exec(compile(block, "docs/integrations.md", "exec"), names)
    assert len(blocks) == 2
    assert names["module"].criterion is names["criterion"]
    assert isinstance(get_criterion_by_cfg({"name": "expanded_triplet", "args": {"margin": 0.3}}), EmbeddingExpansion)
    del LOSSES_REGISTRY["expanded_triplet"]
