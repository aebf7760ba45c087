"""What it costs to open a trained model: the CPU time of importing what that needs, against the libraries alone.

Each round runs three fresh processes, one after the other, and counts their user and system time:

    libraries   imports torch, and torchvision or timm where the backbone is theirs
    imports     imports all modules of this package that `Embedder.load` loads for such a model
    load        imports `Embedder`, and opens the model

The ratios are taken round by round, so that they do not change with the speed of the machine.
"""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import harness

NAME = "embedding_expansion"
#: What a backbone of a name needs besides torch; any other name is one of torchvision.
LIBRARIES = {"conv4": [], "timm": ["timm"]}
MODULES = f"print(*[name for name in sys.modules if name.startswith('{NAME}')])"


def cpu_seconds(program: str) -> float:
    """User and system time of a process that runs a program."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", program], stdout=subprocess.DEVNULL, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def save_model(folder: Path, backbone: str) -> None:
    """Makes the folder of a run that has not been trained: random weights of the backbone."""
    from embedding_expansion.model.network import make_model
    from embedding_expansion.model.weights import save_tensors
    from embedding_expansion.runs.config import dump
    from embedding_expansion.runs.options import DataConfig, ModelConfig, TrainConfig

    config = TrainConfig(
        data=DataConfig(image_size=224, transform="crop_flip"), model=ModelConfig(backbone=backbone, channels=3)
    )
    folder.mkdir()
    save_tensors(folder / "model.safetensors", make_model(config.model).state_dict(), {})
    (folder / "config.yaml").write_text(dump(config), encoding="utf-8")


def measure(backbone: str, repeats: int) -> dict[str, Any]:
    """The CPU seconds of each program, a sample per round, and how many modules of this package are imported."""
    libraries = ["torch", *LIBRARIES.get(backbone.partition("/")[0], ["torchvision.models"])]
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "model"
        save_model(model, backbone)
        load = f"import sys; from {NAME} import Embedder; Embedder.load({str(model)!r}, device='cpu')"
        run = subprocess.run([sys.executable, "-c", f"{load}; {MODULES}"], capture_output=True, text=True, check=True)
        loaded = run.stdout.split()
        programs = {
            "libraries": "import " + ", ".join(libraries),
            "imports": "import " + ", ".join([*libraries, *loaded]),
            "load": load,
        }
        if repeats > 1:
            for program in programs.values():  # the first of each reads from the disk
                cpu_seconds(program)
        rounds = [{name: cpu_seconds(program) for name, program in programs.items()} for _ in range(repeats)]
    seconds = {name: [one[name] for one in rounds] for name in programs}
    return {"backbone": backbone, "libraries": libraries, "modules": len(loaded), "seconds": seconds}


def main() -> None:
    """Measures and prints."""
    options = harness.parser(__doc__)
    options.set_defaults(repeats=7, threads=1)
    options.add_argument("--backbones", nargs="+", default=["conv4", "resnet18", "timm/resnet18"])
    given = options.parse_args()
    if given.quick:
        given.backbones, given.repeats = ["conv4"], 1
    results, rows = [], []
    for backbone in given.backbones:
        found = measure(backbone, given.repeats)
        results.append(found)
        seconds = found["seconds"]
        ratios = [harness.ratio(seconds, name, "libraries") for name in ("imports", "load")]
        medians = [f"{statistics.median(seconds[name]):.2f}" for name in seconds]
        cells = [f"{one.median:.2f}" if one else "-" for one in ratios]
        rows.append([backbone, ", ".join(found["libraries"]), found["modules"], *medians, *cells])
    harness.write(given.out, {"what": __doc__, "machine": harness.machine(given.threads), "results": results})
    header = ["backbone", "libraries", "our modules", "libraries, s", "imports, s", "load, s", "imports / libraries"]
    print(harness.table([*header, "load / libraries"], rows))


if __name__ == "__main__":
    main()
