"""Kill trainings, damage files and fill disks, and count after how many faults nothing is lost.

    python benchmarks/reliability/runs.py --tries 20

A fault is survived if the resumed run ends with the same bytes in `model.safetensors` as an undisturbed one. A fault
that cannot be repaired is survived if the command says so in one sentence with status 2 and loses nothing. The seed
determines when a training is killed and how a file is damaged, but not how far the training has got by then.
"""

from __future__ import annotations

import contextlib
import io
import multiprocessing
import os
import random
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
from faults import Count, Said, print_table
from PIL import Image

from embedding_expansion.app.cli import main as embex

#: Commands are forked from a process that has imported torch, which takes most of the time of a small training.
FORK = multiprocessing.get_context("forkserver")
FORK.set_forkserver_preload(["embedding_expansion.training.run", "embedding_expansion.app.report.page", "tensorboard"])
SECONDS = 180.0  # limit for a command; a longer one counts as hanging
OPTIONS = [
    *("--data.image_size", "16", "--data.workers", "0", "--device", "cpu", "--threads", "1", "--model.dim", "8"),
    *("--sampler.classes_per_batch", "4", "--sampler.images_per_class", "2", "--measure_before", "false"),
    *("--steps", "24", "--checkpoint_every", "4", "--eval_every", "12", "--log_every", "1", "--loss", "proxy_anchor"),
    *("--model.freeze_batch_norm", "true"),
]


class Training:
    """A small training that starts in new folders, and the result of an undisturbed one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.said: dict[BaseProcess, Connection] = {}  # the connection to each process
        self.data = folder / "photographs"
        rng = np.random.default_rng(0)
        for number in range(12):
            (self.data / f"class_{number}").mkdir(parents=True)
            pattern = rng.integers(0, 256, (20, 20, 3))
            for image in range(5):
                noisy = np.clip(pattern + rng.normal(0, 40, pattern.shape), 0, 255).astype(np.uint8)
                Image.fromarray(noisy).save(self.data / f"class_{number}" / f"{image}.png")
        began = time.monotonic()
        done = self.run(self.starting("undisturbed"))
        self.seconds = time.monotonic() - began
        if done.status:
            raise RuntimeError(f"the training itself fails: {done.err}")
        self.weights = self.weights_of("undisturbed")

    def starting(self, name: str) -> list[str]:
        return ["train", "--data", str(self.data), *OPTIONS, "--out", str(self.folder / name)]

    def resuming(self, name: str) -> list[str]:
        return ["train", "--resume", str(self.folder / name)]

    def weights_of(self, name: str) -> bytes:
        path = self.folder / name / "model.safetensors"
        return path.read_bytes() if path.exists() else b""

    def start(self, arguments: list[str], most: int | None = None) -> BaseProcess:
        """Run a command in a separate process, with a limit on the size of the files that it writes."""
        receiver, sender = FORK.Pipe(duplex=False)
        process = FORK.Process(target=_child, args=(arguments, sender, most))
        process.start()
        sender.close()
        self.said[process] = receiver
        return process

    def end(self, process: BaseProcess) -> Said:
        process.join(SECONDS)
        if process.is_alive():
            process.kill()
            process.join()
        try:
            return self.said.pop(process).recv()
        except EOFError:  # it was killed before it sent anything
            return Said(-1, "", "")

    def run(self, arguments: list[str], most: int | None = None) -> Said:
        return self.end(self.start(arguments, most))

    def finishes(self, name: str) -> bool:
        """Return whether a disturbed run ends like an undisturbed one, including its report; then remove the run."""
        said = self.run(self.resuming(name))
        if said.status == 2 and ("there is no run folder" in said.err or "start it again" in said.err):
            said = self.run(self.starting(name))
        folder = self.folder / name
        whole = all((folder / file).exists() for file in ("metrics.json", "report.html"))
        same = (
            said.status == 0
            and whole
            and self.weights_of(name) == self.weights
            and not list(folder.rglob("*.partial-*"))
        )
        shutil.rmtree(folder, ignore_errors=True)
        return same


def _child(arguments: list[str], said: Connection, most: int | None) -> None:
    if most is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    said.send(_here(arguments))
    os._exit(0)


def killed(training: Training, rng: random.Random, tries: int) -> Count:
    """Kill each run at a random moment, and every second run twice; then resume it to the end."""
    survived = 0
    for number in range(tries):
        name = f"killed-{number}"
        process = training.start(training.starting(name))
        process.join(rng.uniform(0.2, training.seconds))
        process.kill()
        process.join()
        if number % 2:  # and again while it is resumed
            process = training.start(training.resuming(name))
            process.join(rng.uniform(0.2, training.seconds))
            process.kill()
            process.join()
        survived += training.finishes(name)
    return Count("SIGKILL of a training", tries, survived)


def two_writers(training: Training) -> Count:
    """During a training, let another process resume the run, start it, and write its report."""
    name, survived = "shared", 0
    first = training.start(training.starting(name))
    while first.is_alive() and not (training.folder / name / "log.jsonl").exists():
        time.sleep(0.02)
    intruders = (training.resuming(name), training.starting(name), ["report", str(training.folder / name)])
    others = [training.start(arguments) for arguments in intruders]
    said = [training.end(process) for process in others]
    whole = training.end(first).status == 0 and training.weights_of(name) == training.weights
    survived = sum(one.is_sentence and f"process {first.pid} on" in one.err for one in said) if whole else 0
    shutil.rmtree(training.folder / name)
    return Count("a second writer of a run folder", len(others), survived)


def ranks_killed(training: Training, rng: random.Random, tries: int) -> Count:
    """Kill one of two ranks: the other one ends, and both are resumed to the end."""
    reference, survived = "ranks", 0
    if [process.wait(SECONDS) for process in _ranks(training.starting(reference))] != [0, 0]:
        raise RuntimeError("two processes do not train together here")
    expected = training.weights_of(reference)
    for number in range(tries):
        name, victim = f"ranks-{number}", rng.randrange(2)
        both = _ranks(training.starting(name))
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline and not (training.folder / name / "log.jsonl").exists():
            time.sleep(0.02)
        time.sleep(rng.uniform(0, 1))
        both[victim].kill()
        try:
            status = both[1 - victim].wait(60)
        except subprocess.TimeoutExpired:
            both[1 - victim].kill()
            status = -1
        assert both[1 - victim].stderr is not None
        said = both[1 - victim].stderr.read().decode()
        ended = status == 0 or (status == 2 and "another process of this distributed run has ended" in said)
        again = [process.wait(SECONDS) for process in _ranks(training.resuming(name))]
        survived += ended and again == [0, 0] and training.weights_of(name) == expected
    return Count("one of two ranks killed", tries, survived)


def _ranks(arguments: list[str]) -> list[subprocess.Popen[bytes]]:
    """Start two ranks like torchrun, but without a parent that would end the other rank."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    group = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "embedding_expansion", *arguments]
    return [
        subprocess.Popen(
            command,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env={**os.environ, **group, "RANK": rank, "LOCAL_RANK": rank},
        )
        for rank in ("0", "1")
    ]


def full_disk(training: Training) -> Count:
    """Limit the size of files, from the first file of a run to its checkpoints; then give room again."""
    sizes, survived = (0, 200, 700, 1_500, 20_000, 300_000), 0
    for size in sizes:
        name = f"full-{size}"
        said = training.run(training.starting(name), most=size)
        survived += (said.is_sentence or said.status == 0) and training.finishes(name)
    return Count("a full disk, from the first file of a run to its checkpoints", len(sizes), survived)


def read_only(training: Training) -> Count:
    """Use a run in a read-only folder: evaluating works, resuming and reporting print a sentence."""
    name = "read-only"
    shutil.copytree(training.folder / "undisturbed", training.folder / name)
    stopped = training.folder / "read-only-stopped"
    shutil.copytree(training.folder / "undisturbed", stopped)
    (stopped / "metrics.json").unlink()
    with _not_writable(training.folder / name) as one, _not_writable(stopped) as two:
        if not (one and two):
            return Count("a read-only run folder (neither a mount nor a user without rights to be had here)", 0, 0)
        works = [training.run(arguments).status == 0 for arguments in (["evaluate", str(training.folder / name)],)]
        works += [training.run(training.resuming(name)).status == 0]
        told = [
            training.run(arguments).is_sentence
            for arguments in (training.resuming(stopped.name), ["report", str(training.folder / name)])
        ]
    survived = sum(works) + sum(told)
    return Count("a read-only run folder", len(works) + len(told), survived)


@contextlib.contextmanager
def _not_writable(folder: Path) -> Iterator[bool]:
    """Make a folder read-only inside the `with` block; yield whether that was possible."""
    if os.geteuid():
        folder.chmod(0o555)
        yield True
        folder.chmod(0o755)
        return
    mount = ["mount", "--bind", str(folder), str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        yield False
        return
    try:
        again = ["mount", "-o", "remount,bind,ro", str(folder)]
        yield subprocess.run(again, capture_output=True, check=False).returncode == 0
    finally:
        subprocess.run(["umount", str(folder)], check=False)


def damaged(training: Training, rng: random.Random, tries: int) -> Count:
    """Flip one bit of a checkpoint, the weights or the fingerprint: it is refused or has no effect."""
    whole = training.folder / "undisturbed"
    checkpoints = sorted((whole / "checkpoints").iterdir())
    survived = 0
    for number in range(tries):
        run = training.folder / f"damaged-{number}"
        shutil.copytree(whole, run)
        file = rng.choice([f"checkpoints/{checkpoints[-1].name}", "model.safetensors", "fingerprint.json"])
        content = bytearray((run / file).read_bytes())
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        (run / file).write_bytes(content)
        if file == "model.safetensors":
            said = _here(["evaluate", str(run)])
        else:
            for name in ("metrics.json", "model.safetensors", "report.html"):
                (run / name).unlink()
            said = _here(training.resuming(run.name))
        harmless = said.status == 0 and training.weights_of(run.name) in (training.weights, bytes(content))
        survived += said.is_sentence or harmless
        shutil.rmtree(run)
    return Count("one bit of a file of a run flipped", tries, survived)


def _here(arguments: list[str]) -> Said:
    """Run a command in this process."""
    err = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(err):
        status = embex(arguments)
    return Said(status, "", err.getvalue())


def counts(tries: int = 20, seed: int = 0) -> list[Count]:
    """Count all kinds: `tries` kills and flipped bits, and a tenth as many with two ranks."""
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        training = Training(Path(folder))
        return [
            killed(training, rng, tries),
            two_writers(training),
            ranks_killed(training, rng, max(1, tries // 5)),
            full_disk(training),
            read_only(training),
            damaged(training, rng, tries),
        ]


if __name__ == "__main__":
    print_table(__doc__, counts, 20)
