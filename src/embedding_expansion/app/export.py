"""The command embex export."""

from __future__ import annotations

from pathlib import Path

from embedding_expansion.app.arguments import command, parse
from embedding_expansion.app.backbone_options import add_backbone_options, chosen_model
from embedding_expansion.app.next_step import after_export, print_next


def run(arguments: list[str]) -> int:
    """Exports the model of a run; returns the exit status."""
    options = command(
        "export",
        "Exports a model for use in other programs. Writes a folder with the model, model.json and a model card.",
    )
    options.add_argument(
        "run", type=str, help="a run folder, or a backbone as it comes: a torchvision name or timm/NAME"
    )
    options.add_argument(
        "--format", type=str, default="onnx", help="onnx, torch (a program of torch.export) or safetensors"
    )
    options.add_argument("--out", type=str, required=True, help="folder to write")
    add_backbone_options(options)
    given = parse(options, arguments)

    given.device = "cpu"
    model = chosen_model(given.run, given)

    from embedding_expansion.inference.export import export

    difference = export(model, given.format, Path(given.out))
    print(f"exported to {given.out}; its embeddings differ from PyTorch's by at most {difference:.1e}")
    print_next(after_export(given.out, given.run))
    return 0
