from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from embedding_expansion.data.images import ImageSet, image_files
from embedding_expansion.data.loader import batches, broken_sentence, evaluation_batches
from embedding_expansion.data.sampler import ClassBalancedSampler
from embedding_expansion.data.transforms import test_transform, train_transform
from embedding_expansion.errors import DataError, InvalidInput

Picture = Callable[..., Path]
PIXELS = np.random.default_rng(0).integers(0, 256, (24, 1, 16, 16), dtype=np.uint8)
IN_MEMORY = ImageSet(np.repeat(np.arange(6), 4), tuple("abcdef"), pixels=PIXELS)


def on_disk(folder: Path, picture: Picture, broken: tuple[int, ...] = ()) -> ImageSet:
    """Four classes of three files; every pixel of file i is 10 i, so that an image says which file it is."""
    paths = [picture(folder / f"{i:02}.png", 10 * i) for i in range(12)]
    for i in broken:
        paths[i].write_bytes(b"no image")
    return image_files(paths, [i // 3 for i in range(12)])


def stream(images: ImageSet, name: str, **options: Any) -> list[tuple[int, torch.Tensor, torch.Tensor]]:
    sampler = ClassBalancedSampler(images.labels, 3, 2, seed=4)
    return list(batches(images, sampler, train_transform(8, name), seed=9, **options))


@pytest.mark.parametrize("name", ["none", "crop_flip"])
def test_a_batch_holds_the_sampled_images_and_their_labels(name: str) -> None:
    sampler = ClassBalancedSampler(IN_MEMORY.labels, 3, 2, seed=4)
    steps = stream(IN_MEMORY, name, start=5, stop=8)
    assert [step for step, _, _ in steps] == [5, 6, 7]
    for step, images, labels in steps:
        assert (images.shape, images.dtype, labels.dtype) == ((6, 1, 8, 8), torch.uint8, torch.int64)
        assert labels.tolist() == IN_MEMORY.labels[sampler.batch(step)].tolist()


@pytest.mark.parametrize("name", ["none", "crop_flip"])
def test_the_stream_is_the_same_for_any_number_of_workers_and_any_start(name: str) -> None:
    whole = stream(IN_MEMORY, name, start=0, stop=6)
    for options in ({"start": 0, "stop": 6, "workers": 2}, {"start": 4, "stop": 6}):
        for step, images, labels in stream(IN_MEMORY, name, **options):
            assert torch.equal(images, whole[step][1])
            assert torch.equal(labels, whole[step][2])


@pytest.mark.parametrize("name", ["none", "crop_flip"])
def test_the_shares_of_the_ranks_make_up_the_batch(name: str) -> None:
    whole = stream(IN_MEMORY, name, start=2, stop=4)
    shares = [stream(IN_MEMORY, name, start=2, stop=4, rows=rows) for rows in (slice(0, 2), slice(2, 6))]
    for step, images, labels in whole:
        parts = [share[step - 2] for share in shares]
        assert torch.equal(torch.cat([part[1] for part in parts]), images)
        assert torch.equal(torch.cat([part[2] for part in parts]), labels)


def test_what_happens_to_an_image_depends_on_seed_step_and_position() -> None:
    same = ImageSet(IN_MEMORY.labels, IN_MEMORY.class_names, pixels=np.repeat(PIXELS[:1], 24, axis=0))
    first, second = stream(same, "crop_flip", start=0, stop=2)
    assert not torch.equal(first[1], second[1])
    assert len({image.numpy().tobytes() for image in first[1]}) == 6
    sampler = ClassBalancedSampler(same.labels, 3, 2, seed=4)
    other = next(batches(same, sampler, train_transform(8, "crop_flip"), seed=10, start=0, stop=1))
    assert not torch.equal(first[1], other[1])


def test_the_global_random_state_is_left_as_it_was() -> None:
    before = torch.get_rng_state()
    stream(IN_MEMORY, "crop_flip", start=0, stop=2)
    stream(IN_MEMORY, "crop_flip", start=0, stop=2, workers=1)
    list(evaluation_batches(IN_MEMORY, test_transform(8, "none")))
    assert torch.equal(torch.get_rng_state(), before)


def test_an_evaluation_goes_through_the_set_in_order(tmp_path: Path, picture: Picture) -> None:
    for images in (IN_MEMORY, on_disk(tmp_path, picture)):
        for workers in (0, 2):
            came = list(evaluation_batches(images, test_transform(16, "none"), 5, workers=workers))
            assert np.concatenate([indices for indices, _ in came]).tolist() == list(range(len(images)))
            assert [len(pixels) for _, pixels in came[:-1]] == [5] * (len(came) - 1)
            expected = torch.stack([test_transform(16, "none")(images.load(i)) for i in range(len(images))])
            assert torch.equal(torch.cat([pixels for _, pixels in came]), expected)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_broken_image_is_left_out_of_an_evaluation_and_named(tmp_path: Path, picture: Picture, workers: int) -> None:
    images, broken = on_disk(tmp_path, picture, broken=(4, 5, 6, 7)), {}
    came = list(evaluation_batches(images, test_transform(4, "none"), 2, workers=workers, broken=broken))
    assert np.concatenate([indices for indices, _ in came]).tolist() == [0, 1, 2, 3, 8, 9, 10, 11]
    assert torch.cat([pixels for _, pixels in came])[:, 0, 0, 0].tolist() == [0, 10, 20, 30, 80, 90, 100, 110]
    assert sorted(path.name for path in broken) == ["04.png", "05.png", "06.png", "07.png"]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_broken_image_is_replaced_by_another_of_its_class_in_training(
    tmp_path: Path, picture: Picture, workers: int
) -> None:
    images, broken = on_disk(tmp_path, picture, broken=(4,)), {}
    sampler = ClassBalancedSampler(images.labels, 4, 2, seed=0)
    transform = train_transform(4, "none")
    for step, pixels, labels in batches(images, sampler, transform, seed=0, stop=9, workers=workers, broken=broken):
        assert labels.tolist() == images.labels[sampler.batch(step)].tolist()
        files = [value // 10 for value in pixels[:, 0, 0, 0].tolist()]
        assert 4 not in files
        assert [file // 3 for file in files] == labels.tolist()
        assert len(set(files)) == 8  # the class's two readable images, each once
    assert [path.name for path in broken] == ["04.png"]


def test_a_class_without_a_readable_image_leaves_the_batch(tmp_path: Path, picture: Picture) -> None:
    images, broken = on_disk(tmp_path, picture, broken=(3, 4, 5)), {}
    sampler = ClassBalancedSampler(images.labels, 4, 2, seed=0)
    for _, pixels, labels in batches(images, sampler, train_transform(4, "none"), seed=0, stop=3, broken=broken):
        assert len(pixels) == len(labels) == 6
        assert set(labels.tolist()) == {0, 2, 3}
    assert len(broken) == 3


def test_a_step_without_a_readable_image_is_an_error(tmp_path: Path, picture: Picture) -> None:
    images = on_disk(tmp_path, picture, broken=tuple(range(12)))
    sampler = ClassBalancedSampler(images.labels, 4, 2, seed=0)
    with pytest.raises(DataError, match=r"step 0 has no readable image \(12 broken images left out: .*00"):
        next(batches(images, sampler, train_transform(4, "none"), seed=0, stop=1))


def test_the_sentence_on_broken_images_counts_all_and_names_a_few() -> None:
    assert broken_sentence({}) == "no image was broken"
    assert broken_sentence({Path("a.jpg"): "why"}) == "1 broken image left out: a.jpg"
    many = {Path(f"{i}.jpg"): "why" for i in range(7)}
    assert broken_sentence(many, limit=2) == "7 broken images left out: 0.jpg, 1.jpg and 5 more"


def test_a_random_transform_is_refused_in_an_evaluation_and_a_negative_seed_in_training() -> None:
    with pytest.raises(InvalidInput, match="the transform is random"):
        next(evaluation_batches(IN_MEMORY, train_transform(8, "crop")))
    with pytest.raises(InvalidInput, match="seed is -1; pass a whole number of at least 0"):
        next(
            batches(
                IN_MEMORY, ClassBalancedSampler(IN_MEMORY.labels, 2, 2, 0), train_transform(8, "none"), seed=-1, stop=1
            )
        )
