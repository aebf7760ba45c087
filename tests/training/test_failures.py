"""What a machine does to a training is told in one sentence: memory, killed processes, ranks that are silent."""

from __future__ import annotations

import dataclasses
import os
import re
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from embedding_expansion.app.cli import main
from embedding_expansion.errors import InvalidInput
from embedding_expansion.failures import failure
from embedding_expansion.runs.options import TrainConfig
from embedding_expansion.training.ranks import Ranks
from forked import Forked

from .conftest import arguments
from .test_run_lock import EMBEX, children, wait_for

HUGE = 1 << 50


def raised(work: Callable[[], object]) -> BaseException:
    with pytest.raises((MemoryError, RuntimeError)) as found:
        work()
    return found.value


@pytest.mark.parametrize("work", [lambda: torch.empty(HUGE), lambda: np.empty(HUGE), lambda: bytearray(HUGE)])
def test_memory_that_ran_out(work: Callable[[], object]) -> None:
    assert "this machine has no memory left; use smaller batches" in str(failure(raised(work)))


# Of PyTorch 2.15: the last two from gloo and the second from a /dev/shm of 1 MB as they came.
SAID = {
    "CUDA out of memory. Tried to allocate 80.00 GiB. GPU 0 has a total capacity of 79.11 GiB of which 78.00 GiB is "
    "free. Of the allocated memory 0 bytes is allocated by PyTorch": "the GPU has no memory left",
    "Caught RuntimeError in DataLoader worker process 0. RuntimeError: unable to allocate shared memory(shm) for file "
    "</torch_25332_2315220024_0>: No space left on device (28)": "docker run --shm-size",
    "DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that dataloader's workers are out of "
    "shared memory. Please try to raise your shared memory limit.": "docker run --shm-size",
    "DataLoader worker (pid 7) is killed by signal: Killed. ": "process 7, which loaded images, was killed by signal K",
    "DataLoader worker (pid(s) 7, 8) exited unexpectedly": "process 7, 8, which loaded images, was killed, most likely",
    "[/pytorch/gloo/gloo/transport/tcp/pair.cc:561] Connection closed by peer [127.0.0.1]:31110.": "has ended",
    "[/pytorch/gloo/gloo/transport/tcp/unbound_buffer.cc:78] Timed out waiting 4000ms for recv operation to "
    "complete": "has not answered for 4 seconds",
}


@pytest.mark.parametrize(("text", "said"), SAID.items(), ids=SAID.values())
def test_what_torch_says_of_a_failure(text: str, said: str) -> None:
    assert said in str(failure(RuntimeError(text)))


@pytest.mark.parametrize(
    "error",
    [RuntimeError("mat1 and mat2 shapes cannot be multiplied"), ValueError("out of memory"), OSError(2, "gone")],
)
def test_other_errors_are_left_alone(error: BaseException) -> None:
    assert failure(error) is None


def test_a_process_that_loads_images_is_killed(small: TrainConfig, tmp_path: Path) -> None:
    run, data = tmp_path / "run", dataclasses.replace(small.data, workers=1)
    long = dataclasses.replace(small, data=data, out=str(run), steps=3000, protocol="last", measure_before=False)
    process = subprocess.Popen(
        [*EMBEX, "train", *arguments(long)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    try:
        wait_for(run / "log.jsonl", process)
        (worker,) = (
            child for child in children(process.pid) if b"train" in Path(f"/proc/{child}/cmdline").read_bytes()
        )
        os.kill(worker, signal.SIGKILL)
        said = process.communicate(timeout=120)[1]
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 2, said
    assert said.startswith(f"embex: process {worker}, which loaded images, was killed"), said
    assert said.endswith(f"resume from the last checkpoint with embex train --resume {run}\n"), said
    assert said.count("\n") == 1


def test_a_training_that_needs_more_memory_than_there_is(
    small: TrainConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    big = dataclasses.replace(small, measure_before=False, data=dataclasses.replace(small.data, image_size=500))
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (1 << 30), before[1]))
    try:
        status = main(["train", *arguments(big)])
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
    said = capsys.readouterr().err
    assert (status, said.count("\n")) == (2, 1)
    assert "this machine has no memory left" in said


def test_when_a_rank_is_killed_the_others_end_with_a_sentence(small: TrainConfig, tmp_path: Path) -> None:
    run = tmp_path / "run"
    long = dataclasses.replace(small, out=str(run), steps=3000, eval_every=3000, measure_before=False)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command = [*launch, "-m", "embedding_expansion", "train", *arguments(long)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    try:
        wait_for(run / "log.jsonl", process)
        (second,) = (child for child in children(process.pid) if b"RANK=1" in _environment(child))
        os.kill(second, signal.SIGKILL)
        out, said = process.communicate(timeout=120)
    finally:
        process.kill()
        process.wait()
    sentence = (
        "embex: another process of this distributed run has ended; read its own message for the reason; resume from "
        f"the last checkpoint with embex train --resume {run}\n"
    )
    assert said.count(sentence) == 1, said
    assert out.count("batch norm uses the statistics of the 4 images of each process") == 1


def _environment(process: int) -> list[bytes]:
    return Path(f"/proc/{process}/environ").read_bytes().split(b"\0")


PATIENCE = """
import os, signal, sys, time, torch
from embedding_expansion.failures import failure
from embedding_expansion.training.ranks import Ranks
ranks = Ranks.start(torch.device("cpu"))
if ranks.is_first:
    time.sleep(5)  # longer than the patience, and nobody minds: it is busy alone
assert ranks.broadcast(ranks.rank + 7) == 7
assert ranks.maximum(ranks.rank) == 1
try:
    if sys.argv[1] == "silent":
        if not ranks.is_first:
            time.sleep(600)
        ranks.maximum(1)
    if ranks.is_first:
        os.kill(os.getpid(), signal.SIGKILL)
    ranks.broadcast(0)
except RuntimeError as error:
    print(failure(error), flush=True)
"""


@pytest.mark.parametrize(
    ("happens", "survivor", "said"), [("silent", 0, "has not answered for 2 seconds"), ("dies", 1, "has ended")]
)
def test_ranks_wait_for_an_evaluation_and_give_up_on_silence_and_death(happens: str, survivor: int, said: str) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    group = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "EMBEX_RANK_PATIENCE": "2"}
    both = [Forked(PATIENCE, happens, **group, RANK=rank) for rank in ("0", "1")]
    try:
        assert said in both[survivor].communicate(timeout=60)[0]
    finally:
        for process in both:
            process.kill()
            process.communicate()


def test_a_patience_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    for given in ("soon", "0", "nan", "1e9"):
        monkeypatch.setenv("EMBEX_RANK_PATIENCE", given)
        with pytest.raises(InvalidInput, match=f"EMBEX_RANK_PATIENCE is '{re.escape(given)}'; set it to the seconds"):
            Ranks.start(torch.device("cpu"))
