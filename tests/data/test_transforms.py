from __future__ import annotations

import pytest
import torch
from torchvision.transforms.v2 import functional

from embedding_expansion.data import transforms
from embedding_expansion.data.preprocessing import TRANSFORMS
from embedding_expansion.data.transforms import test_transform, train_transform
from embedding_expansion.errors import InvalidInput, UnknownName

IMAGE = torch.randint(0, 256, (3, 40, 60), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", TRANSFORMS)
def test_every_transform_gives_a_square_of_bytes(name: str) -> None:
    for transform in (train_transform(24, name), test_transform(24, name)):
        result = transform(IMAGE)
        assert (result.shape, result.dtype) == ((3, 24, 24), torch.uint8)


@pytest.mark.parametrize("name", TRANSFORMS)
def test_a_transform_says_whether_it_is_random(name: str) -> None:
    assert not test_transform(24, name).is_random
    transform = train_transform(24, name)
    varies = len({transform(IMAGE).numpy().tobytes() for _ in range(6)}) > 1
    assert varies == transform.is_random


@pytest.mark.parametrize("name", TRANSFORMS)
def test_a_stack_is_measured_as_its_images_are(name: str) -> None:
    transform = test_transform(24, name)
    stack = torch.stack([IMAGE, IMAGE.flip(-1)])
    assert torch.equal(transform(stack), torch.stack([transform(image) for image in stack]))


@pytest.mark.parametrize("name", TRANSFORMS)
@pytest.mark.parametrize("channels", [1, 3])
def test_pixels_are_the_same_where_torch_rounds_otherwise(
    name: str, channels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    stack = torch.stack([IMAGE, IMAGE.flip(-1)])[:, :channels]
    expected = test_transform(24, name)(stack)
    monkeypatch.setattr(transforms, "_torch_agrees", lambda: False)
    assert torch.equal(test_transform(24, name)(stack), expected)


def levels_apart(first: torch.Tensor, second: torch.Tensor) -> int:
    return int((first.int() - second.int()).abs().max())


def test_none_leaves_an_image_of_the_right_size_as_it_is() -> None:
    square = IMAGE[:, :32, :32]
    assert torch.equal(train_transform(32, "none")(square), square)


def test_the_paper_trains_on_squashed_images_and_on_crops_of_slightly_larger_ones() -> None:
    wide = torch.arange(454, dtype=torch.float32).div(2).to(torch.uint8).expand(3, 300, 454)
    squashed = functional.resize(wide, [227, 227], antialias=True)
    larger = functional.resize(wide, [255, 255], antialias=True)
    crops = [larger[:, :227, left : left + 227] for left in range(29)]
    known = {image.numpy().tobytes() for crop in [squashed, *crops] for image in (crop, crop.flip(-1))}
    transform = train_transform(227, "paper")
    seen = [transform(wide).numpy().tobytes() for _ in range(40)]
    assert set(seen) <= known
    whole = sum(image in {squashed.numpy().tobytes(), squashed.flip(-1).numpy().tobytes()} for image in seen)
    assert 8 <= whole <= 32  # half of 40, give or take
    assert levels_apart(test_transform(227, "paper")(wide), squashed) <= 1


def test_center_crop_trains_on_any_square_and_tests_on_the_middle_one() -> None:
    resized = functional.resize(IMAGE, [37], antialias=True)
    _, height, width = resized.shape
    places = [(top, left) for top in range(height - 31) for left in range(width - 31)]
    squares = [resized[:, top : top + 32, left : left + 32] for top, left in places]
    known = {image.numpy().tobytes() for square in squares for image in (square, square.flip(-1))}
    seen = {train_transform(32, "center_crop")(IMAGE).numpy().tobytes() for _ in range(20)}
    assert len(seen) > 10
    assert seen <= known
    middle = functional.center_crop(resized, [32, 32])
    assert levels_apart(test_transform(32, "center_crop")(IMAGE), middle) <= 1


def test_crop_never_mirrors() -> None:
    ramp = torch.arange(64, dtype=torch.uint8).mul(3).expand(1, 64, 64)
    transform = train_transform(16, "crop")
    assert all(transform(ramp)[0, 0, 0] < transform(ramp)[0, 0, -1] for _ in range(20))


def test_the_modern_test_transform_cuts_out_the_middle() -> None:
    expected = functional.center_crop(functional.resize(IMAGE, [37], antialias=True), [32, 32])
    assert levels_apart(test_transform(32, "crop_flip")(IMAGE), expected) <= 1


def test_wrong_names_and_sizes_are_refused() -> None:
    with pytest.raises(UnknownName, match="did you mean 'paper'"):
        train_transform(32, "papr")
    with pytest.raises(InvalidInput, match="size is 0; pass a whole number of at least 1"):
        test_transform(0, "none")
