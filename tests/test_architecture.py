"""The house: imports point downwards, the mathematics needs torch and jaxtyping only, the public names are pinned."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import embedding_expansion

PACKAGE = Path(embedding_expansion.__file__).parent
NAME = "embedding_expansion"
FLOORS = {
    "errors": 0,
    "failures": 1,
    "core": 1,
    "interop": 2,
    "backbones": 2,
    "data": 3,
    "model": 3,
    "retrieval": 3,
    "training": 4,
    "inference": 5,
    "app": 6,
    "__main__": 7,
}
CORE_MAY_IMPORT = {"torch", "jaxtyping", NAME} | set(sys.stdlib_module_names)

PUBLIC = {
    "AngularLoss",
    "ArcFaceLoss",
    "BatchHardMiner",
    "CircleLoss",
    "ClassBalancedSampler",
    "ContrastiveLoss",
    "CosFaceLoss",
    "CrossBatchMemory",
    "DistanceWeightedMiner",
    "DistributedLoss",
    "EasyPositiveMiner",
    "EmbeddingExpansion",
    "EmbeddingModel",
    "FastAPLoss",
    "GeneralizedLiftedStructureLoss",
    "HPHNTripletLoss",
    "HistogramLoss",
    "IntraPairVarianceLoss",
    "LOSSES",
    "LiftedStructureLoss",
    "MarginLoss",
    "MultiSimilarityLoss",
    "MultiSimilarityMiner",
    "NCALoss",
    "NPairLoss",
    "NTXentLoss",
    "NormalizedSoftmaxLoss",
    "PROXY_LOSSES",
    "PairLoss",
    "Pairs",
    "ProxyAnchorLoss",
    "ProxyNCALoss",
    "RankedListLoss",
    "RecallAtKLoss",
    "SignalToNoiseRatioContrastiveLoss",
    "SmoothAPLoss",
    "SoftTripleLoss",
    "SubCenterArcFaceLoss",
    "SupConLoss",
    "Terms",
    "TripletLoss",
    "TupletMarginLoss",
    "Winners",
    "__version__",
    "clustering_metrics",
    "compare",
    "expand",
    "hardest",
    "open_dataset",
    "retrieval_metrics",
    "synthesize",
    "retrieval_by_class",
    "retrieval_values",
    "verification",
    "open_set",
    "Threshold",
    "kmeans",
    "agglomerative",
    "hdbscan",
    "partition_metrics",
    "near_duplicates",
    "nearest",
    "list_metrics",
    "alpha_query_expansion",
    "database_augmentation",
    "k_reciprocal",
    "diffusion",
    "PCAWhitening",
    "Item",
    "create_index",
    "open_index",
    "Embedder",
    "Client",
    "Collection",
}


def modules() -> Iterator[tuple[Path, str]]:
    """Every source file but the package's own __init__, with the name of its floor."""
    for path in sorted(PACKAGE.rglob("*.py")):
        inside = path.relative_to(PACKAGE)
        if inside.parts != ("__init__.py",):
            yield path, inside.parts[0].removesuffix(".py")


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Line and full name of everything that a file imports, anywhere in it."""
    package = [NAME, *path.relative_to(PACKAGE).parts[:-1]]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield from ((node.lineno, f"{module}.{alias.name}") for alias in node.names)


def test_every_part_of_the_package_has_a_floor() -> None:
    assert {floor for _, floor in modules()} <= set(FLOORS)


def test_imports_point_downwards() -> None:
    upward = []
    for path, floor in modules():
        for line, name in imports(path):
            parts = name.split(".")
            if parts[0] != NAME or parts[1] == floor:
                continue
            if parts[1] not in FLOORS or FLOORS[parts[1]] >= FLOORS[floor]:
                upward.append(f"{path.relative_to(PACKAGE)}:{line} imports {name}")
    assert not upward


def test_the_mathematics_imports_torch_and_jaxtyping_only() -> None:
    foreign = [
        f"{path.relative_to(PACKAGE)}:{line} imports {name}"
        for path, floor in modules()
        if floor in ("core", "errors")
        for line, name in imports(path)
        if name.split(".")[0] not in CORE_MAY_IMPORT
    ]
    assert not foreign


def loaded_after(statement: str) -> set[str]:
    program = f"{statement}\nimport sys\nprint(*sorted({{name.split('.')[0] for name in sys.modules}}))"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    return set(run.stdout.split())


HEAVY = {
    "scipy",
    "tqdm",
    "yaml",
    "jsonargparse",
    "torch",
    "torchvision",
    "numpy",
    "sklearn",
    "matplotlib",
    "PIL",
    "timm",
    "jaxtyping",
    "safetensors",
    "tensorboard",
    "faiss",
    "psycopg",
    "fastapi",
    "starlette",
    "uvicorn",
    "onnxruntime",
    "onnx",
    "pyarrow",
    "jinja2",
}


@pytest.mark.parametrize(
    "statement",
    [f"import {NAME}", f"import {NAME} as e; dir(e); e.__all__", f"import {NAME}.errors"],
)
def test_importing_the_package_loads_nothing_heavy(statement: str) -> None:
    assert not loaded_after(statement) & HEAVY


def test_the_mathematics_loads_nothing_of_ours_above_it() -> None:
    program = (
        f"import {NAME}.core.modules, {NAME}.core.distributed, sys\n"
        f"print(*[m for m in sys.modules if m.startswith('{NAME}.')])"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert {name.split(".")[1] for name in run.stdout.split()} == {"core", "errors"}


def test_the_public_names_are_these() -> None:
    assert set(embedding_expansion.__all__) == PUBLIC
    assert len(embedding_expansion.__all__) == len(PUBLIC)


def test_every_public_name_can_be_had_and_is_listed() -> None:
    for name in embedding_expansion.__all__:
        assert getattr(embedding_expansion, name) is not None
    assert set(embedding_expansion.__all__) <= set(dir(embedding_expansion))


def test_a_name_that_there_is_not_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        embedding_expansion.no_such_name  # noqa: B018


def test_the_package_is_typed() -> None:
    assert (PACKAGE / "py.typed").is_file()


def test_type_checkers_are_told_of_every_public_name_where_it_is_loaded_from() -> None:
    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    (typed,) = [node for node in tree.body if isinstance(node, ast.If)]
    told = {alias.name: node.module for node in typed.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert set(told) == PUBLIC - {"__version__"}
    for name, module in told.items():
        assert module is not None
        assert getattr(importlib.import_module(module), name) is getattr(embedding_expansion, name)
