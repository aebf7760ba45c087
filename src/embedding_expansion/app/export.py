"""The command embex export."""

from __future__ import annotations

from pathlib import Path

import jsonargparse

from embedding_expansion.app.arguments import parse


def run(arguments: list[str]) -> int:
    """Exports the model of a run; returns the exit status."""
    options = jsonargparse.ArgumentParser(
        prog="embex export",
        exit_on_error=False,
        allow_abbrev=False,
        description="Exports a trained model for use in other programs. Writes a folder with the model, model.json and "
        "a model card.",
    )
    options.add_argument("run", type=str, help="the run folder")
    options.add_argument(
        "--format", type=str, default="onnx", help="onnx, torch (a program of torch.export) or safetensors"
    )
    options.add_argument("--out", type=str, required=True, help="folder to write")
    given = parse(options, arguments)

    from embedding_expansion.inference.export import export

    difference = export(Path(given.run), given.format, Path(given.out))
    print(f"exported to {given.out}; its embeddings differ from PyTorch's by at most {difference:.1e}")
    return 0
