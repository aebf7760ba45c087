"""Damage every kind of file that is read, and count after how many faults the reader works or says what is wrong.

    python benchmarks/reliability/parsers.py --tries 900 --kinds mat npz

Each kind has an intact file, written by the library if it writes such files, and a reader, which is the function that a
command calls. A fault flips bytes, truncates the file, inserts bytes, or gives a value of JSON or YAML another type,
depending on a seed. It is survived if the reader works or raises one of the package's errors. Each kind runs in
separate processes, so that processes that die or hang are counted too.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import traceback
import warnings
import zipfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from damage import Random, flip, flip_file, retype, retype_file

SECONDS = 120.0  # limit for a fault; a longer reader counts as hanging


@dataclass(frozen=True)
class Kind:
    """One kind of file.

    Attributes:
        write: makes intact files in an empty folder.
        damage: puts one fault into them.
        read: reads all of them as the commands do.
    """

    write: Callable[[Path], object]
    damage: Callable[[Path, Random], object]
    read: Callable[[Path], object]


# Images and vectors


def _write_image(suffix: str, **options: Any) -> Callable[[Path], object]:
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 256, (24, 20, 4)).astype(np.uint8)
    mode = options.pop("mode", "RGB")
    return lambda folder: Image.fromarray(pixels).convert(mode).save(folder / f"image.{suffix}", **options)


def _image(suffix: str, **options: Any) -> Kind:
    from embedding_expansion.data.decoding import decode

    name = f"image.{suffix}"
    return Kind(
        _write_image(suffix, **options), flip_file(name), lambda folder: decode(folder / name, max_pixels=10**7)
    )


_ROWS = np.random.default_rng(0).normal(size=(12, 5)).astype(np.float32)
_LABELS = np.repeat(["d", "a", "c", "b"], 3)
_NAMES = np.array([f"text {row}" for row in range(12)])


def _write_npz(folder: Path) -> None:
    save = {"embeddings": _ROWS, "labels": _LABELS, "split": np.array(["train", "test"] * 6), "names": _NAMES}
    np.savez(folder / "vectors.npz", **save)


def _damage_npz(folder: Path, rng: Random) -> None:
    """Damage bytes of the archive, its flags and methods, or an array's header with a correct checksum."""
    path = folder / "vectors.npz"
    content, choice = path.read_bytes(), rng.integers(4)
    if choice == 0:
        path.write_bytes(flip(content, rng))
    elif choice == 1:  # encrypted, or another compression method, in the directory and before the member
        flags, at = (6, 8) if rng.random() < 0.5 else (8, 10)
        local, central = content.index(b"PK\x03\x04"), content.index(b"PK\x01\x02")
        number = int(rng.choice([1, 8, 9, 12, 14, 93, 99, 65535])).to_bytes(2, "little")
        changed = bytearray(content)
        changed[local + flags : local + flags + 2] = changed[central + at : central + at + 2] = number
        path.write_bytes(bytes(changed))
    else:
        with zipfile.ZipFile(path) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        name = list(members)[int(rng.integers(len(members)))]
        if choice == 2:
            members[name] = flip(members[name], rng)
        else:
            kinds = ["<f4", "<f8", "|O", "<U99999999", ">c16", "|V3", "<M8[s]", "|b1", "[('a', '<f4')]"]
            shapes = ["(12, 5)", "(0,)", "()", "(-1, 5)", "(99999999999, 5)", "(1, 1)", "(12, 5, 0)", "(2**70,)"]
            text = f"{{'descr': {kinds[int(rng.integers(len(kinds)))]!r}, 'fortran_order': False, "
            text += f"'shape': {shapes[int(rng.integers(len(shapes)))]}, }}\n"
            body = members[name][10 + int.from_bytes(members[name][8:10], "little") :]
            members[name] = b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode() + body
        with zipfile.ZipFile(path, "w", int(rng.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]))) as archive:
            for member, data in members.items():
                archive.writestr(member, data)


def _read_vectors(name: str) -> Callable[[Path], object]:
    from embedding_expansion.data.vectors import open_vectors

    return lambda folder: open_vectors(folder / name)


def _write_table(folder: Path) -> None:
    rows = [f"{row}.png,label {row // 2},{'train' if row < 4 else 'test'}" for row in range(8)]
    (folder / "table.csv").write_text("\n".join(["path,label,split", *rows, '"quoted, too.png",last,test', ""]))


def _read_table(folder: Path) -> None:
    from embedding_expansion.data.csv_table import open_csv
    from embedding_expansion.inference.labels import read_labels

    open_csv(folder / "table.csv")
    read_labels(str(folder / "table.csv"))


def _write_parquet(folder: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    columns = {"features": list(_ROWS), "labels": _LABELS, "names": _NAMES}
    pyarrow.parquet.write_table(pyarrow.table(columns), folder / "vectors.parquet")


def _write_mat(folder: Path) -> None:
    from PIL import Image
    from scipy.io import savemat

    files = [f"car_ims/{number}.jpg" for number in range(4)]
    (folder / "car_ims").mkdir()
    for file in files:
        Image.new("RGB", (4, 4)).save(folder / file)
    rows = np.zeros(4, dtype=[("bbox_x1", "O"), ("class", "O"), ("relative_im_path", "O")])
    rows["bbox_x1"], rows["class"], rows["relative_im_path"] = 1, [1, 98, 99, 196], files
    names = np.array([f"Car {number}" for number in range(1, 197)], dtype=object)
    for name, packed in (("plain.mat", False), ("packed.mat", True)):
        savemat(folder / name, {"annotations": rows, "class_names": names}, do_compression=packed)


def _damage_mat(folder: Path, rng: Random) -> None:
    content = (folder / str(rng.choice(["plain.mat", "packed.mat"]))).read_bytes()
    (folder / "cars_annos.mat").write_bytes(content[:128] + flip(content[128:], rng))


def _read_mat(folder: Path) -> None:
    from embedding_expansion.data.cars import open_cars

    open_cars(folder, part=True)


# Files of runs and exports


def _write_run(folder: Path) -> None:
    """Make a run of four steps on images of noise, its export, and an index of its images."""
    from PIL import Image

    rng = np.random.default_rng(0)
    for number in range(8):
        (folder / "photos" / f"class_{number}").mkdir(parents=True)
        for image in range(4):
            pixels = rng.integers(0, 256, (12, 12, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(folder / "photos" / f"class_{number}" / f"{image}.png")
    options = "--sampler.classes_per_batch 2 --sampler.images_per_class 2 --steps 4 --log_every 1 --eval_every 2"
    options += " --threads 1 --device cpu --data.image_size 16 --data.workers 0 --model.dim 6"
    commands = (
        ["train", "--data", f"{folder}/photos", *options.split(), "--out", f"{folder}/run"],
        ["export", f"{folder}/run", "--format", "safetensors", "--out", f"{folder}/export"],
        ["index", f"{folder}/export", f"{folder}/photos", "--out", f"{folder}/index"],
        ["calibrate", f"{folder}/index", "--false_alarm_rate", "0.5"],
    )
    _run_commands(commands)
    thresholds = {"same or not": _threshold("same or not"), "known or unknown": _threshold("known or unknown")}
    (folder / "export" / "thresholds.json").write_text(json.dumps(thresholds))


def _write_onnx(folder: Path) -> None:
    _write_run(folder)
    _run_commands((["export", f"{folder}/run", "--format", "onnx", "--out", f"{folder}/onnx"],))


def _run_commands(commands: Iterable[list[str]]) -> None:
    from embedding_expansion.app.cli import main

    for command in commands:
        said = io.StringIO()
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(said):
            status = main(command)
        assert status in (0, 1), said.getvalue()


def _threshold(task: str) -> dict[str, Any]:
    from embedding_expansion.retrieval.threshold import Threshold

    content: dict[str, Any] = json.loads(
        Threshold(0.7, task, "precision", 0.99, 0.993, 0.81, 4000, 250000).to_json()  # type: ignore[arg-type]
    )
    return content


def _read_report(folder: Path) -> None:
    """Read the files that the report needs, without the model."""
    from embedding_expansion.app.report.page import render
    from embedding_expansion.runs.run_folder import RunFolder

    run = RunFolder(folder / "run")
    render(run, run.read_config(), None, "the model is left out here")
    run.note_resumption(1, {}, [])
    run.cut_log(2)


def _damage_yaml(folder: Path, rng: Random) -> None:
    import yaml

    path = folder / "run" / "config.yaml"
    text = path.read_text(encoding="utf-8")
    if rng.random() < 0.4:
        path.write_bytes(flip(text.encode(), rng))
        return
    changed = retype(yaml.safe_load(text), rng)
    with contextlib.suppress(UnicodeEncodeError):
        path.write_text(yaml.safe_dump(changed), encoding="utf-8")


def _read_config(folder: Path) -> None:
    from embedding_expansion.runs import config

    path = folder / "run" / "config.yaml"
    config.dump(config.load(path))
    config.from_namespace(_parsed(["--config", str(path)]))


def _parsed(arguments: list[str]) -> Any:
    from embedding_expansion.app.arguments import parse
    from embedding_expansion.runs.config import parser

    return parse(parser(), arguments)


def _read_run(folder: Path) -> None:
    from embedding_expansion.inference.embedder import Embedder

    _embed(Embedder.load(folder / "run", device="cpu"))


def _embed(embedder: Any) -> None:
    embedder.describe()
    embedder.embed(np.zeros((4, 4, 3), np.uint8))


def _read_checkpoint(folder: Path) -> None:
    from embedding_expansion.model.weights import load_tensors
    from embedding_expansion.training.checkpoint import checkpoint_path, saved_steps

    steps = saved_steps(folder / "run" / "checkpoints")
    load_tensors(checkpoint_path(folder / "run" / "checkpoints", steps[-1]))


def _damage_checkpoint(folder: Path, rng: Random) -> None:
    (newest,) = sorted((folder / "run" / "checkpoints").glob("*.safetensors"))[-1:]
    _damage_tensors(newest, rng)


def _damage_tensors(path: Path, rng: Random) -> None:
    """Damage the bytes or the header of a safetensors file: types, shapes, offsets, metadata."""
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    if rng.random() < 0.5:
        path.write_bytes(flip(content, rng))
        return
    header = json.loads(content[8 : 8 + length])
    about = header.get("__metadata__", {})
    if "about" in about and rng.random() < 0.5:
        about["about"] = json.dumps(retype(json.loads(about["about"]), rng))
    else:
        header = retype(header, rng)
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + length :])


def _resume(folder: Path) -> None:
    from embedding_expansion.app.cli import main

    for path in (folder / "run").glob("metrics.json"):
        path.unlink()
    _command(main, ["train", "--resume", str(folder / "run")])


def _read_export(name: str) -> Callable[[Path], object]:
    def read(folder: Path) -> None:
        from embedding_expansion.app.cli import main
        from embedding_expansion.inference.embedder import Embedder
        from embedding_expansion.inference.index_model import digest_of

        digest_of(folder / name)
        _embed(Embedder.load(folder / name, device="cpu"))
        _command(main, ["calibrate", str(folder / name), "--data", str(folder / "photos"), "--false_alarm_rate", "0.5"])

    return read


def _command(main: Callable[[list[str]], int], arguments: list[str]) -> None:
    """Run a command whose error is one line on stderr; a traceback propagates."""
    said = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(said):
        status = main(arguments)
    assert status in (0, 1) or said.getvalue().count("\n") == 1, said.getvalue()


# An index


def _damage_notes(folder: Path, rng: Random) -> None:
    database = sqlite3.connect(folder / "index" / "index.sqlite")
    with contextlib.closing(database), database:
        notes = dict(database.execute("SELECT name, value FROM notes"))
        name = list(notes)[int(rng.integers(len(notes)))]
        text = notes[name]
        text = (
            flip(text.encode(), rng).decode("latin-1")
            if rng.random() < 0.3
            else json.dumps(retype(json.loads(text), rng))
        )
        if rng.random() < 0.1:
            database.execute("DELETE FROM notes WHERE name = ?", (name,))
        else:
            database.execute("UPDATE notes SET value = ? WHERE name = ?", (text, name))


def _damage_rows(folder: Path, rng: Random) -> None:
    """Change the type of a value of an item, or its bytes."""
    database = sqlite3.connect(folder / "index" / "index.sqlite")
    columns = ["path", "label", "metadata", "facts", "thumbnail", "vector", "changed"]
    with contextlib.closing(database), database:
        column = columns[int(rng.integers(len(columns)))]
        (value,) = database.execute(f"SELECT {column} FROM items WHERE id = 1").fetchone()
        odd = [b"", b"x", "x", "", 3, 1.5, "[]", "{", flip(value, rng) if isinstance(value, bytes) else "null"]
        database.execute(f"UPDATE items SET {column} = ? WHERE id = 1", (odd[int(rng.integers(len(odd)))],))


def _damage_model_of_index(folder: Path, rng: Random) -> None:
    files = sorted((folder / "index" / "model").iterdir())
    path = files[int(rng.integers(len(files)))]
    if path.suffix == ".json" and rng.random() < 0.7:
        retype_file(path.name)(path.parent, rng)
    else:
        path.write_bytes(flip(path.read_bytes(), rng))


def _read_index(folder: Path) -> None:
    """Read an index as the commands do: info, search, remove, add."""
    from embedding_expansion.app.cli import main

    place, photo = str(folder / "index"), str(folder / "photos" / "class_0" / "0.png")
    page = str(folder / "page.html")
    for command in (
        ["info", place],
        ["search", place, photo, "-k", "3", "--html", page],
        ["duplicates", place],
        ["remove", place, str(folder / "photos" / "class_1" / "1.png")],
        ["add", place, str(folder / "photos" / "class_1")],
    ):
        _command(main, command)


#: Kinds that share the files of `_write_run`.
OF_A_RUN = {
    "metrics.json": Kind(_write_run, retype_file("run/metrics.json"), _read_report),
    "environment.json": Kind(_write_run, retype_file("run/environment.json"), _read_report),
    "log.jsonl": Kind(_write_run, retype_file("run/log.jsonl", lines=True), _read_report),
    "config.yaml": Kind(_write_run, _damage_yaml, _read_config),
    "config.yaml of a model": Kind(_write_run, _damage_yaml, _read_run),
    "model.safetensors": Kind(
        _write_run, lambda folder, rng: _damage_tensors(folder / "run" / "model.safetensors", rng), _read_run
    ),
    "checkpoint": Kind(_write_run, _damage_checkpoint, _read_checkpoint),
    "resumed checkpoint": Kind(_write_run, _damage_checkpoint, _resume),
    "model.json": Kind(_write_run, retype_file("export/model.json"), _read_export("export")),
    "thresholds.json": Kind(_write_run, retype_file("export/thresholds.json"), _read_export("export")),
    "notes of an index": Kind(_write_run, _damage_notes, _read_index),
    "items of an index": Kind(_write_run, _damage_rows, _read_index),
    "index.sqlite": Kind(_write_run, flip_file("index/index.sqlite"), _read_index),
    "model of an index": Kind(_write_run, _damage_model_of_index, _read_index),
}


def _die(folder: Path) -> None:
    if (folder / "dies").exists():
        os.kill(os.getpid(), signal.SIGKILL)


#: A reader that dies of about every second fault, to test the counting itself.
DYING = {"dying": Kind(lambda folder: None, lambda folder, rng: rng.integers(2) and (folder / "dies").touch(), _die)}


def kinds() -> dict[str, Kind]:
    """Return all kinds by name."""
    exif = (
        b"Exif\x00\x00MM\x00*\x00\x00\x00\x08\x00\x01\x01\x12\x00\x03\x00\x00\x00\x01\x00\x06\x00\x00\x00\x00\x00\x00"
    )
    return {
        "JPEG": _image("jpg", exif=exif),
        "progressive JPEG": _image("jpg", progressive=True),
        "PNG": _image("png", mode="RGBA"),
        "palette PNG": _image("png", mode="P", transparency=b"\x00\x80"),
        "GIF": _image("gif", mode="P"),
        "BMP": _image("bmp"),
        "WebP": _image("webp"),
        "TIFF": _image("tif", compression="raw"),
        "packed TIFF": _image("tif", compression="tiff_lzw"),
        "16-bit TIFF": _image("tif", mode="I;16"),
        "PPM": _image("ppm"),
        "npz": Kind(_write_npz, _damage_npz, _read_vectors("vectors.npz")),
        "CSV table": Kind(_write_table, flip_file("table.csv"), _read_table),
        "parquet": Kind(_write_parquet, flip_file("vectors.parquet"), _read_vectors("vectors.parquet")),
        "mat": Kind(_write_mat, _damage_mat, _read_mat),
        **OF_A_RUN,
        "model.onnx": Kind(_write_onnx, flip_file("onnx/model.onnx"), _read_export("onnx")),
    }


# Trying and counting


def attempt(kind: Kind, whole: Path, seed: int) -> str | None:
    """Try one fault. Return None if it was survived, otherwise what happened.

    Args:
        kind: the kind of file.
        whole: the folder that `kind.write` has filled; it is copied.
        seed: the seed of the fault.
    """
    from embedding_expansion.errors import EmbeddingExpansionError

    with tempfile.TemporaryDirectory() as place, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        folder = Path(place) / "files"
        shutil.copytree(whole, folder)
        try:
            kind.damage(folder, np.random.default_rng(seed))
            kind.read(folder)
        except (EmbeddingExpansionError, OSError) as error:  # as the command line handles it
            return None if str(error).strip() else f"{type(error).__name__} without a sentence"
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            frames = [
                frame for frame in traceback.extract_tb(error.__traceback__) if "embedding_expansion" in frame.filename
            ]
            where = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "?"
            return f"{type(error).__name__} at {where}: {' '.join(str(error).split())[:150]}"
    return None


def counts(
    names: list[str] | None = None, tries: int = 100, seed: int = 0, say: Callable[[str], object] = lambda line: None
) -> Iterator[tuple[str, int, int]]:
    """Try faults of each kind in separate processes; yield the kind and how many faults were tried and survived.

    Args:
        names: names of kinds; by default all.
        tries: number of faults of each kind.
        seed: seed of the first fault; the others count up from it.
        say: called with a line for each fault that was not survived.
    """
    with tempfile.TemporaryDirectory() as place:
        run = Path(place) / "run"
        known = kinds() | DYING
        for name in names or list(kinds()):
            whole = run if name in OF_A_RUN else Path(place) / "one"
            if name not in OF_A_RUN:
                shutil.rmtree(whole, ignore_errors=True)
            if not whole.exists():
                whole.mkdir()
                known[name].write(whole)
            failed = dict(_failures(name, whole, range(seed, seed + tries)))
            for number, reason in failed.items():
                say(f"{name}, seed {number}: {reason}")
            yield name, tries, tries - len(failed)


def _failures(name: str, whole: Path, seeds: range) -> Iterator[tuple[int, str]]:
    """Yield the seeds that were not survived, and why. If a process dies, another one continues after its seed."""
    start = seeds.start
    while start < seeds.stop:
        command = [sys.executable, __file__, "--child", name, str(whole), str(start), str(seeds.stop)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as child:
            assert child.stdout is not None
            for line in child.stdout:
                number, _, reason = line.strip().partition(" ")
                start = int(number) + 1
                if reason:
                    yield int(number), reason
        if start < seeds.stop:
            yield start, f"the process died with status {child.returncode}"
            start += 1


def _child(name: str, whole: str, start: str, stop: str) -> None:
    """Try seeds and print a line for each; an alarm ends a reader that hangs."""
    kind = (kinds() | DYING)[name]
    lines = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # keeps what libraries print out of our lines
    for seed in range(int(start), int(stop)):
        signal.alarm(int(SECONDS))
        reason = attempt(kind, Path(whole), seed)
        lines.write(f"{seed} {reason or ''}\n")
        lines.flush()


def main() -> None:
    """Print the table."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--kinds", nargs="*", help="default: all")
    options.add_argument("--tries", type=int, default=100, help="faults of each kind")
    options.add_argument("--seed", type=int, default=0, help="of the first fault")
    options.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    given = options.parse_args()
    if given.child:
        _child(*given.child)
        return
    print("| kind | faults tried | survived |\n| --- | --- | --- |", flush=True)
    for name, tried, survived in counts(
        given.kinds, given.tries, given.seed, lambda line: print(line, file=sys.stderr)
    ):
        print(f"| {name} | {tried:,} | {survived:,} |", flush=True)


if __name__ == "__main__":
    main()
