"""The entry point of the command line; `GROUPS` lists the commands.

Nothing heavy is imported before the arguments are validated, so that `--help` is fast.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
from typing import Any

from embedding_expansion import __version__
from embedding_expansion.allocator import keep_freed_memory
from embedding_expansion.app.streams import tolerant_stream
from embedding_expansion.errors import EmbeddingExpansionError, UnknownName
from embedding_expansion.failures import failure

#: The commands by what they are for.
GROUPS = {
    "train": {
        "train": "train an embedding model and evaluate it",
        "tune": "tune forms of expansion with the same budget for each",
        "evaluate": "evaluate a trained run, a file of vectors or a pretrained backbone",
        "compare": "compare runs on the same test images, with intervals over the queries",
        "report": "write the HTML report of a run again",
        "reproduce": "repeat the experiments of the documentation",
    },
    "use a model": {
        "embed": "embed image files with a trained model",
        "calibrate": "calibrate the thresholds of similarity for same or not, and known or unknown",
        "export": "export a trained model to ONNX, torch.export or safetensors",
    },
    "keep and search a collection": {
        "index": "build a searchable index of images",
        "add": "add images to an index",
        "remove": "remove images from an index",
        "search": "search an index for images similar to yours",
        "cluster": "cluster images, or the images of an index",
        "duplicates": "find near-duplicates in an index",
        "serve": "serve an index as a web page and a JSON API",
        "info": "describe an index",
    },
    "look around": {
        "data": "list, check and download data sets, and shrink their images",
        "completion": "print a script that completes commands in bash, zsh or fish",
        "env": "show the installed versions and whether the C libraries are used",
    },
}
COMMANDS = {name: text for group in GROUPS.values() for name, text in group.items()}
#: What has a `--help` of its own within a command.
SUBCOMMANDS = {"data prepare": "shrink the images of a data set once, so that training need not decode large files"}


def main(arguments: list[str] | None = None) -> int:
    """Runs a command.

    Args:
        arguments: the command and its arguments; None takes those of the program.

    Returns:
        The exit status: 0 for success, 1 if a command had to skip some of its input, 2 for an error, which is printed
        on stderr as one line, and 128 plus the signal number for a command stopped by a signal.
    """
    if "_ARGCOMPLETE" in os.environ:  # a shell completes a line
        from embedding_expansion.app.shell import complete

        complete(COMMANDS, lambda name: _module(name).run([]))
    given = sys.argv[1:] if arguments is None else arguments
    with tolerant_stream("stderr"):
        try:
            with tolerant_stream("stdout"):
                return _dispatch(given)
        except (EmbeddingExpansionError, OSError, MemoryError, RuntimeError) as error:
            known = error if isinstance(error, EmbeddingExpansionError) else failure(error)
            if known is None and not isinstance(error, OSError):  # a full disk is an error to report, not a bug of ours
                raise
            print(f"embex: {' '.join(str(known or error).split())}", file=sys.stderr)
            return 2
        except KeyboardInterrupt:
            print("embex: interrupted", file=sys.stderr)
            return 128 + signal.SIGINT


def _dispatch(given: list[str]) -> int:
    if not given or given[0] in ("-h", "--help"):
        print(_help())
        return 0
    if given[0] == "--version":
        print(f"embex {__version__}")
        return 0
    if given[0] not in COMMANDS:
        raise UnknownName("command", given[0], COMMANDS)
    # Idle threads should sleep instead of spinning, because spinning threads slow each other down on busy cores
    # (measured on two busy cores: a quarter of the images per second). torch reads this variable when it loads its
    # thread pool.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if given[0] != "serve":  # which runs for long, and shares its machine
        keep_freed_memory()
    status: int = _module(given[0]).run(given[1:])
    return status


def _module(name: str) -> Any:
    return importlib.import_module(f"embedding_expansion.app.{name}")


def _help() -> str:
    commands = "\n\n".join(
        f"{title}:\n" + "\n".join(f"  {name:<12}{text}" for name, text in group.items())
        for title, group in GROUPS.items()
    )
    return (
        "usage: embex COMMAND ...\n\nDeep metric learning with embedding expansion. `embex train` without options "
        f"trains on a small built-in data set.\n\n{commands}\n\noptions:\n  -h, --help  show this text; "
        "embex COMMAND --help describes a command\n  --version   show the version"
    )
