"""Every family's encoder agrees with transformers' own processor and model."""

from __future__ import annotations

import math
import multiprocessing
import pickle
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import transformers
from checkpoints import FAMILIES, SIZE, tiny_checkpoint
from PIL import Image
from safetensors.torch import load_file, save_file

from localize import Localizer
from localize.encoders import (
    Encoder,
    HuggingFaceEncoder,
    check_crop_embeddings,
    check_prompt_embeddings,
    load_encoder,
)
from localize.encoders.checkpoint import load_checkpoint
from localize.encoders.device import (
    ExactConvolutions,
    _convolution_setting,
    choose_batch_size,
)
from localize.encoders.hub import find_files
from localize.encoders.text_cache import TextCache

TEXTS = ["a cat", "a photo of a dog in the grass", "", "a cat", "sky."]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("checkpoints")
    return {family: tiny_checkpoint(root / family, family) for family in FAMILIES}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LOCALIZE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def load(folder: Path, dtype: str = "float32") -> Any:
    return load_encoder(folder, device="cpu", dtype=dtype)


def picture(seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def as_crops(image: Image.Image, encoder: Encoder) -> torch.Tensor:
    pixels = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)[None] / 255
    mean, std = (torch.tensor(values)[:, None, None] for values in (encoder.mean, encoder.std))
    return (pixels - mean) / std


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_a_crop_of_native_size_is_embedded_as_the_processor_and_model_do(
    folders: dict[str, Path], family: str, dtype: str
) -> None:
    encoder = load(folders[family], dtype)
    processor = transformers.AutoImageProcessor.from_pretrained(folders[family], backend="pil")
    model = transformers.AutoModel.from_pretrained(folders[family], dtype=torch.float32).eval()
    inputs = processor(images=picture(), return_tensors="pt")
    expected = model.get_image_features(**inputs).pooler_output
    embeddings, tokens = encoder.encode_crops(as_crops(picture(), encoder))
    assert encoder.image_size == SIZE
    assert torch.cosine_similarity(embeddings, expected).item() >= 0.999
    check_crop_embeddings(encoder, embeddings, tokens, 1)
    assert embeddings.dtype == torch.float32


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_prompts_are_embedded_as_the_tokenizer_and_model_do_one_by_one(
    folders: dict[str, Path], family: str
) -> None:
    encoder = load(folders[family])
    tokenizer = transformers.AutoTokenizer.from_pretrained(folders[family])
    model = transformers.AutoModel.from_pretrained(folders[family], dtype=torch.float32).eval()
    padding = "max_length" if "siglip" in family else False
    for text, embedding in zip(TEXTS, encoder.encode_prompts(TEXTS), strict=True):
        inputs = tokenizer([text], padding=padding, max_length=40, return_tensors="pt")
        if "siglip" in family:  # trained without a mask: it attends to the padding
            inputs = {"input_ids": inputs["input_ids"]}
        expected = F.normalize(model.get_text_features(**inputs).pooler_output, dim=-1)[0]
        torch.testing.assert_close(embedding, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("family", "expected"), [("clip", 40), ("vit", 40), ("siglip", 100), ("convnext", 100)]
)
def test_rewired_tokens_have_a_logit_scale_of_forty_where_clips_is_a_hundred(
    folders: dict[str, Path], family: str, expected: float
) -> None:
    checkpoint = load_checkpoint(find_files(folders[family]))
    checkpoint.model.logit_scale.data.fill_(math.log(100))
    encoder = HuggingFaceEncoder(checkpoint, device="cpu", dtype="float32")
    assert encoder.logit_scale == pytest.approx(100)
    assert encoder.token_scale == pytest.approx(expected)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_logit_scale_is_the_models_own(folders: dict[str, Path], family: str) -> None:
    model = transformers.AutoModel.from_pretrained(folders[family]).requires_grad_(False)
    divided = family in ("align", "tipsv2")
    expected = 1 / model.temperature if divided else model.logit_scale.exp()
    assert load(folders[family]).logit_scale == pytest.approx(float(expected))


def test_a_logit_scale_over_the_limit_that_aimv2_sets_is_the_limit(tmp_path: Path) -> None:
    folder = tiny_checkpoint(tmp_path, "aimv2")
    weights = load_file(folder / "model.safetensors")
    save_file(
        weights | {"logit_scale": torch.tensor(4.7)},
        folder / "model.safetensors",
        {"format": "pt"},
    )
    assert load(folder).logit_scale == pytest.approx(100)


def test_tips_checkpoints_that_keep_no_temperature_have_the_configurations_own(
    tmp_path: Path,
) -> None:
    folder = tiny_checkpoint(tmp_path, "tipsv2")
    weights = load_file(folder / "model.safetensors")
    del weights["temperature"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    assert load(folder).logit_scale == pytest.approx(1 / 0.005066, rel=1e-3)


def test_mean_std_size_and_interpolation_are_read_from_the_checkpoint(
    folders: dict[str, Path],
) -> None:
    clip, siglip2 = load(folders["clip"]), load(folders["siglip2"])
    assert clip.mean == pytest.approx((0.48145466, 0.4578275, 0.40821073))
    assert clip.std == pytest.approx((0.26862954, 0.26130258, 0.27577711))
    assert clip.interpolation == "bicubic"
    assert siglip2.mean == pytest.approx((0.5, 0.5, 0.5))
    assert siglip2.interpolation == "bilinear"
    assert siglip2.image_size == SIZE


def test_siglip_reads_prompts_in_lower_case(folders: dict[str, Path]) -> None:
    upper, lower = load(folders["siglip"]).encode_prompts(["A Cat", "a cat"])
    torch.testing.assert_close(upper, lower)


def test_a_loaded_encoder_fulfils_the_protocol_and_bears_its_folders_name(
    folders: dict[str, Path],
) -> None:
    encoder = load(folders["convnext"])
    assert isinstance(encoder, Encoder)
    assert encoder.name == str(folders["convnext"])
    assert not hasattr(encoder, "negatives")


def test_a_checkpoint_may_bring_negatives_of_its_own(tmp_path: Path) -> None:
    folder = tiny_checkpoint(tmp_path, "convnext")
    (folder / "negatives.json").write_text('["grass", "草"]', encoding="utf-8")
    assert load(folder).negatives == ["grass", "草"]


def test_prompts_that_are_too_long_are_cut_with_one_warning(folders: dict[str, Path]) -> None:
    encoder = load(folders["clip"])
    long = "a cat on a mat " * 30
    with pytest.warns(UserWarning, match="over 40 tokens are cut, the first is 'a cat on a mat"):
        embeddings = encoder.encode_prompts([long, long + "and more"])
    torch.testing.assert_close(embeddings[0], embeddings[1])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        encoder.encode_prompts([long + "and yet more"])


def test_ten_thousand_prompts_in_any_script_are_embedded(folders: dict[str, Path]) -> None:
    encoder = load(folders["clip"])
    texts = [f"thing {number}" for number in range(9_997)] + ["кіт", "猫", "\ud800 \U0001f408"]
    embeddings = encoder.encode_prompts(texts)
    check_prompt_embeddings(encoder, embeddings, 10_000)
    torch.testing.assert_close(embeddings[42], encoder.encode_prompts(["thing 42"])[0])


@pytest.mark.parametrize("family", FAMILIES)
def test_an_encoder_that_has_worked_is_small_when_pickled_and_the_same_when_unpickled(
    folders: dict[str, Path], family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folders[family].parent)
    encoder = load_encoder(folders[family].name, dtype="float32")
    crops = as_crops(picture(), encoder)
    embeddings, tokens = encoder.encode_crops(crops)
    texts = encoder.encode_prompts([f"thing {number}" for number in range(100)])
    data = pickle.dumps(encoder)
    assert len(data) < 2000
    monkeypatch.chdir(tmp_path)  # A relative name must lead to the same folder from any other.
    again = pickle.loads(data)
    assert again.name == encoder.name
    torch.testing.assert_close(again.encode_crops(crops), (embeddings, tokens))
    torch.testing.assert_close(again.encode_prompts(["thing 7"]), texts[7:8])


def test_a_localizer_works_in_a_spawned_process(folders: dict[str, Path]) -> None:
    localizer = Localizer(load(folders["clip"]))
    pixels = np.asarray(picture())
    here = localizer.locate(pixels, ["a cat"]).presence
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        there = pool.apply(localizer.locate, (pixels, ["a cat"])).presence
    assert there == pytest.approx(here, abs=1e-6)


def test_no_prompts_give_no_embeddings(folders: dict[str, Path]) -> None:
    assert load(folders["clip"]).encode_prompts([]).shape == (0, 24)


@pytest.mark.parametrize("family", FAMILIES)
def test_many_crops_are_encoded_as_each_by_itself(
    folders: dict[str, Path], family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("localize.encoders.towers.CPU_ACTIVATION", 3 * (SIZE // 8) ** 2 * 48)
    encoder = load(folders[family])
    crops = torch.cat([as_crops(picture(seed), encoder) for seed in range(7)])
    embeddings, tokens = encoder.encode_crops(crops)
    alone = [encoder.encode_crops(crop[None]) for crop in crops]
    torch.testing.assert_close(embeddings, torch.cat([each for each, _ in alone]))
    if tokens is not None:
        torch.testing.assert_close(tokens, torch.cat([each for _, each in alone]))


def test_float32_is_not_rounded_to_tf32_while_crops_are_encoded(folders: dict[str, Path]) -> None:
    encoder = load(folders["clip"])
    where, name, exact = _convolution_setting()
    before, seen = getattr(where, name), []
    convolution = encoder._model.vision_model.embeddings.patch_embedding
    convolution.register_forward_hook(lambda *_: seen.append(getattr(where, name)))
    encoder.encode_crops(as_crops(picture(), encoder))
    assert seen == [exact]
    assert getattr(where, name) == before


def test_convolutions_stay_exact_until_the_last_thread_has_left() -> None:
    where, name, exact = _convolution_setting()
    before, context = getattr(where, name), ExactConvolutions()
    with context:
        with context:
            assert getattr(where, name) == exact
        assert getattr(where, name) == exact
    assert getattr(where, name) == before


def test_a_gpu_gets_larger_batches_than_a_cpu() -> None:
    cpu, cuda = (choose_batch_size(torch.device(name)) for name in ("cpu", "cuda"))
    assert 1 <= cpu < cuda


def test_crops_of_another_size_are_refused(folders: dict[str, Path]) -> None:
    with pytest.raises(
        ValueError, match=r"crops have shape \(1, 3, 48, 48\), not \(B, 3, 32, 32\)"
    ):
        load(folders["clip"]).encode_crops(torch.zeros(1, 3, 48, 48))


@pytest.mark.parametrize("device", ["cuda:99", "toaster", "meta", "mps:7"])
def test_a_device_that_is_not_there_is_named(folders: dict[str, Path], device: str) -> None:
    with pytest.raises(ValueError, match=f"device '{device}' cannot be used on this machine"):
        load_encoder(folders["clip"], device=device)


@pytest.mark.parametrize("dtype", ["float8", "int4", "torch.float64", torch.int32])
def test_a_dtype_that_no_model_runs_in_is_named(folders: dict[str, Path], dtype: Any) -> None:
    with pytest.raises(ValueError, match=f"dtype '{dtype}' is not one of 'auto', 'float32'"):
        load_encoder(folders["clip"], dtype=dtype)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", torch.float32])
def test_the_dtype_asked_for_is_the_one_used(folders: dict[str, Path], dtype: Any) -> None:
    assert str(load(folders["clip"], dtype).dtype).endswith(str(dtype))


def test_dtype_auto_is_one_that_the_machine_computes_in(folders: dict[str, Path]) -> None:
    assert load(folders["clip"], "auto").dtype in (torch.float32, torch.bfloat16)


def test_text_embeddings_are_kept_between_runs_and_not_between_models(
    folders: dict[str, Path], cache: Path, tmp_path: Path
) -> None:
    texts = [f"word {number}" for number in range(40)]
    first = load(folders["clip"])
    expected = first.encode_prompts(texts)

    second = load(folders["clip"])
    second._model.get_text_features = None  # it must not be needed
    torch.testing.assert_close(second.encode_prompts(texts), expected)

    other = load(tiny_checkpoint(tmp_path / "other", "clip", seed=1))
    assert not torch.allclose(other.encode_prompts(texts), expected)
    assert len(list(cache.iterdir())) == 2


def test_one_prompt_asked_by_two_processes_needs_the_text_tower_once(
    folders: dict[str, Path], cache: Path
) -> None:
    expected = load(folders["clip"]).encode_prompts(["a red kite"])
    second = load(folders["clip"])
    second._model.get_text_features = None  # it must not be needed
    torch.testing.assert_close(second.encode_prompts(["a red kite"]), expected)


@pytest.mark.parametrize("damage", ["empty", "cut", "text", "folder"])
def test_a_damaged_text_cache_is_encoded_anew(
    folders: dict[str, Path], cache: Path, damage: str
) -> None:
    texts = [f"word {number}" for number in range(40)]
    expected = load(folders["clip"]).encode_prompts(texts)
    (path,) = cache.iterdir()
    data = path.read_bytes()
    path.unlink()
    if damage == "folder":
        path.mkdir()
    else:
        path.write_bytes({"empty": b"", "cut": data[:-7], "text": b"not safetensors"}[damage])
    torch.testing.assert_close(load(folders["clip"]).encode_prompts(texts), expected)


def test_a_cache_folder_that_cannot_be_made_is_done_without(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("LOCALIZE_CACHE", str(tmp_path / "file" / "cache"))
    texts = [f"word {number}" for number in range(40)]
    assert load(folders["clip"]).encode_prompts(texts).shape == (40, 24)


def test_texts_added_by_two_processes_are_both_kept(cache: Path) -> None:
    one, other = TextCache("same model"), TextCache("same model")
    vector = torch.tensor([0.6, 0.8])
    one.add({f"one {number}": vector for number in range(40)})
    other.add({f"other {number}": vector for number in range(40)})
    assert len(TextCache("same model").get(["one 3", "other 5", "never seen"])) == 2


class Wrong:
    """An encoder by name only; what it returns is given to the checks directly."""


@pytest.mark.parametrize(
    ("embeddings", "message"),
    [
        (torch.full((2, 4), torch.nan), r"Wrong.encode_prompts returned embeddings with NaN"),
        (torch.ones(2, 4), r"Wrong.encode_prompts returned embeddings that are not unit-norm"),
        (torch.ones(3, 1), r"of shape \(3, 1\); \(2, D\) would be right"),
        (torch.ones(2), r"of shape \(2,\); \(2, D\) would be right"),
        (np.ones((2, 1)), r"returned ndarray as embeddings, not a torch.Tensor"),
    ],
)
def test_wrong_prompt_embeddings_of_any_encoder_are_refused(embeddings: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_prompt_embeddings(Wrong(), embeddings, 2)


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (torch.ones(2, 3, 3, 1) * torch.inf, "encode_crops returned tokens with NaN or infinite"),
        (torch.ones(2, 3, 3, 1) / 2, "encode_crops returned tokens that are not unit-norm"),
        (torch.ones(2, 9, 1), r"tokens of shape \(2, 9, 1\); \(2, h, w, D\) would be right"),
        (F.normalize(torch.ones(2, 3, 3, 5), dim=-1), "tokens of another length"),
    ],
)
def test_wrong_tokens_of_any_encoder_are_refused(tokens: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_crop_embeddings(Wrong(), torch.ones(2, 1), tokens, 2)
