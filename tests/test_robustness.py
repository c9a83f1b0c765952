"""What nobody should do is answered all the same, or refused in one sentence that names it."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from io import BytesIO
from typing import Any

import numpy as np
import pytest
import torch
from colours import ColourEncoder, unit
from PIL import Image

from localize import Localizer, Options, Prompt
from localize.windows import make_grids

PROMPTS = ["red", "green", "blue", "yellow", "grey"]


def thing(height: int = 60, width: int = 80) -> np.ndarray:
    pixels = np.full((height, width, 3), 128, np.uint8)
    pixels[height // 3 : height * 2 // 3, width // 4 : width * 3 // 4] = (255, 0, 0)
    return pixels


# Odd pictures -----------------------------------------------------------------------------------


@pytest.mark.parametrize("colour", [(0, 0, 0), (255, 255, 255), (128, 128, 128), (255, 0, 0)])
@pytest.mark.parametrize("shape", [(64, 64), (30, 50), (1, 1), (3, 2000)])
def test_a_picture_of_one_colour_has_no_boxes(
    colour: tuple[int, int, int], shape: tuple[int, int]
) -> None:
    pixels = np.empty((*shape, 3), np.uint8)
    pixels[:] = colour
    result = Localizer(ColourEncoder()).locate(pixels, PROMPTS)
    assert result.boxes == []
    assert np.isfinite(result.maps).all()
    assert np.isfinite(result.presence).all()


@pytest.mark.parametrize("shape", [(1, 1), (1, 2), (5000, 1), (1, 5000), (3, 20000), (20000, 3)])
def test_pictures_of_odd_shapes_are_answered_without_a_warning(shape: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    data = BytesIO()
    Image.fromarray(pixels).save(data, "PNG")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = Localizer(ColourEncoder()).locate(data.getvalue(), PROMPTS)
        overlay = result.boxes_overlay()
    assert (result.height, result.width) == shape
    assert np.isfinite(result.maps).all()
    assert min(overlay.size) > 0
    for box in result.boxes:
        left, top, right, bottom = box.xyxy
        assert 0 <= left < right <= shape[1]
        assert 0 <= top < bottom <= shape[0]


# Odd questions ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("label", "texts", "error", "says"),
    [
        ("cat", "cat", TypeError, "tuple of texts"),
        ("cat", (7,), TypeError, "tuple of texts"),
        (None, ("cat",), TypeError, "tuple of texts"),
        ("cat", (), ValueError, "'cat' must be words"),
        ("cat", ("a cat", " "), ValueError, "'cat' must be words"),
    ],
)
def test_a_prompt_without_proper_texts_is_refused(
    label: Any, texts: Any, error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        Prompt(label, texts)


@pytest.mark.parametrize("prompts", [None, 7, b"red", ["red", None], [["red"]]])
def test_what_is_no_prompt_is_a_type_error_that_says_what_is(prompts: Any) -> None:
    with pytest.raises(TypeError, match="must be text"):
        Localizer(ColourEncoder()).locate(thing(), prompts)


@pytest.mark.parametrize(
    "option",
    [
        {"stride": "half"},
        {"stride": None},
        {"threshold": "0.1"},
        {"batch_size": 1.5},
        {"max_pixels": float("inf")},
        {"scales": 0.5},
        {"scales": "1"},
        {"scales": ("wide",)},
        {"negatives": "grey"},
        {"negatives": (1,)},
    ],
    ids=str,
)
def test_an_option_of_the_wrong_type_is_refused_by_name(option: dict[str, Any]) -> None:
    (name,) = option
    with pytest.raises(TypeError, match=f"^{name} must"):
        Options(**option)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), -1])
@pytest.mark.parametrize("name", ["stride", "threshold", "scales"])
def test_an_option_out_of_its_range_is_refused_by_name(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"^{name} must"):
        Options(**{name: (value,) if name == "scales" else value})


@pytest.mark.parametrize("scale", [1e-3, 1e-300, 5e-324, 1.5])
def test_windows_without_number_are_refused_before_they_are_made(scale: float) -> None:
    with pytest.raises(ValueError, match="scales and stride ask for more than"):
        make_grids(4000, 3000, 224, (scale,), 0.5)


# Odd encoders -----------------------------------------------------------------------------------


def crops(change: Callable[[torch.Tensor, torch.Tensor], Any]) -> dict[str, Any]:
    return {"encode_crops": lambda self, crops: change(*ColourEncoder.encode_crops(self, crops))}


def texts(change: Callable[[torch.Tensor], Any]) -> dict[str, Any]:
    return {"encode_prompts": lambda self, texts: change(ColourEncoder.encode_prompts(self, texts))}


BROKEN = {
    "one tensor": (crops(lambda e, t: e), "encode_crops returned Tensor; a pair"),
    "nothing": (crops(lambda e, t: None), "encode_crops returned NoneType; a pair"),
    "three": (crops(lambda e, t: (e, t, t)), "encode_crops returned tuple; a pair"),
    "numpy": (crops(lambda e, t: (e.numpy(), None)), "encode_crops returned ndarray"),
    "whole numbers": (crops(lambda e, t: (e.int(), None)), r"encode_crops .* torch\.int32"),
    "NaN in tokens": (crops(lambda e, t: (e, t * torch.nan)), "encode_crops .* tokens with NaN"),
    "long tokens": (crops(lambda e, t: (e, t * 3)), "encode_crops .* tokens that are not unit"),
    "flat tokens": (crops(lambda e, t: (e, t.flatten(1, 2))), "encode_crops .* shape"),
    "no tokens": (crops(lambda e, t: (e, t[:, :0])), "encode_crops .* shape"),
    "another length": (
        crops(lambda e, t: (unit(torch.ones(len(e), 7)), None)),
        "encode_prompts .* length 4, but encode_crops of length 8",
    ),
    "no prompts": (texts(lambda e: None), "encode_prompts returned NoneType"),
    "infinite prompts": (texts(lambda e: e * torch.inf), "encode_prompts .* infinite"),
    "few prompts": (texts(lambda e: e[:-1]), "encode_prompts .* shape"),
    "no size": ({"image_size": 0}, "Broken.image_size must be a whole number"),
    "half a pixel": ({"image_size": 32.5}, "Broken.image_size must be a whole number"),
    "two means": ({"mean": (0.5, 0.5)}, "Broken.mean must be three"),
    "no spread": ({"std": (0, 1, 1)}, "Broken.std must be three positive"),
    "NaN scale": ({"logit_scale": float("nan")}, "Broken.logit_scale must be a positive"),
    "a trained scale": (
        {"logit_scale": torch.nn.Parameter(torch.tensor(30.0))},
        "Broken.logit_scale must be a positive",
    ),
    "no token scale": ({"token_scale": 0}, "Broken.token_scale must be a positive number"),
    "a name for a device": ({"device": "cpu"}, r"Broken.device must be a torch\.device"),
    "unknown resizing": ({"interpolation": "best"}, "Broken.interpolation must be"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_an_encoder_that_breaks_the_protocol_is_refused_by_member(name: str) -> None:
    members, says = BROKEN[name]
    with pytest.raises((ValueError, TypeError), match=says):
        Localizer(type("Broken", (ColourEncoder,), members)()).locate(thing(), ["red", "blue"])


@pytest.mark.parametrize("what", ["emoji", None, object()])
def test_what_is_no_encoder_is_refused_and_the_way_to_load_one_named(what: Any) -> None:
    with pytest.raises(TypeError, match=r"no image_size; .* Localizer\.from_pretrained"):
        Localizer(what)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_vectors_of_any_floating_point_format_are_taken(dtype: torch.dtype) -> None:
    both = crops(lambda e, t: (e.to(dtype), t.to(dtype))) | texts(
        lambda e: e.to(dtype).requires_grad_()
    )
    result = Localizer(type("Other", (ColourEncoder,), both)()).locate(thing(), "red")
    expected = Localizer(ColourEncoder()).locate(thing(), "red")
    np.testing.assert_allclose(result.maps, expected.maps, atol=0.1)
