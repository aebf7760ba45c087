"""Files written so that nobody sees half of one, and JSON read back with one sentence for whatever is wrong with it."""

from __future__ import annotations

import contextlib
import glob
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from embedding_expansion.errors import RunError


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Lets `write` fill a file beside `path`, then puts it in place at once.

    Raises:
        RunError: it cannot be written, as on a full disk; what was there before stays.
    """
    partial = path.with_name(path.name + f".partial-{os.getpid()}")
    try:
        write(partial)
        with partial.open("rb") as written:
            os.fsync(written.fileno())
        partial.replace(path)
    except (OSError, SafetensorError) as error:  # safetensors has its own for what the system refuses
        reason = getattr(error, "strerror", None) or error
        raise RunError(f"{path} cannot be written ({reason}); make room for it, or name another place") from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()


def make_folder(path: Path, fill: Callable[[Path], object]) -> None:
    """Lets `fill` put files into a folder beside `path`, then puts it in place at once.

    What a process that was killed in here has left is removed the next time that the same folder is made.

    Raises:
        RunError: something is there already, or the folder cannot be written.
    """
    check_free(path)
    for left in path.parent.glob(f"{glob.escape(path.name)}.partial-*"):
        number = left.name.rpartition("-")[2]
        if number.isdecimal() and not _is_alive(int(number)):
            shutil.rmtree(left, ignore_errors=True)
    partial = path.with_name(path.name + f".partial-{os.getpid()}")
    try:
        partial.mkdir()
        fill(partial)
        for file in partial.rglob("*"):
            if file.is_file() and not file.is_symlink():
                with file.open("rb") as written:
                    os.fsync(written.fileno())
        partial.replace(path)  # an empty folder that is there already gives way
    except OSError as error:
        raise RunError(f"{path} cannot be written ({error.strerror or error}); name another place") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _is_alive(process: int) -> bool:
    """Whether there is a process of this number on this machine."""
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # somebody else's
        return True
    return True


def check_free(path: Path) -> None:
    """Makes sure before any work is done that a folder can be made.

    Raises:
        RunError: something is there already, or there is no folder to make it in.
    """
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise RunError(f"{path} exists and is not empty; name a new folder")
    if not path.absolute().parent.is_dir():
        raise RunError(f"{path} cannot be made, there is no folder {path.parent}; make it, or name another place")


def check_place(path: Path) -> None:
    """Makes sure before any work is done that a file has a place to be written to.

    Raises:
        RunError: its folder does not exist, or it is a folder itself.
    """
    if path.is_dir():
        raise RunError(f"{path} is a folder; name the file to write")
    if not path.parent.is_dir():
        raise RunError(f"{path} cannot be written, there is no folder {path.parent}; make it, or name another place")


def write_json(path: Path, content: object) -> None:
    """Writes JSON atomically."""
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    try:
        text.encode()
    except UnicodeEncodeError:  # the name of a file may be no text
        text = json.dumps(content, indent=2) + "\n"
    write_atomically(path, lambda partial: partial.write_text(text, encoding="utf-8"))


def read_json(path: Path, remedy: str) -> dict[str, Any]:
    """Reads a file that holds one JSON object.

    Args:
        path: of the file.
        remedy: what to do about a broken one, as the end of the sentence.

    Raises:
        RunError: it holds something else, or cannot be read.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(f"{path} cannot be read ({error}); {remedy}") from error
    if not isinstance(content, dict):
        raise RunError(f"{path} holds a {type(content).__name__} where a JSON object is expected; {remedy}")
    return content
