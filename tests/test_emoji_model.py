"""The shipped model: it loads like any checkpoint and knows its names on pictures it never saw."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

import localize
from localize import Localizer
from localize.encoders import Encoder, load_encoder
from localize.evaluation import scenes
from localize.evaluation.unknown import some_unknown, unknown_words

FOLDER = Path(localize.__file__).parent / "encoders" / "emoji"
PHOTOS = Path(__file__).parents[2] / "shared" / "photos" / "images"
NAMES = [concept.name for concept in scenes.concepts()]


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return load_encoder("emoji", device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def names(encoder: Encoder) -> torch.Tensor:
    return encoder.encode_prompts([*NAMES, "the background"])


def picture(seed: int, side: int, size: int = 96) -> tuple[int, Image.Image]:
    """A number of a concept, and that thing alone, `side` pixels long, on a random background."""
    rng = np.random.default_rng(seed)
    number = int(rng.integers(len(NAMES)))
    canvas = scenes.make_background(rng, size, size)
    angle = float(rng.integers(-30, 31))
    glyph = scenes.place(scenes.concepts()[number].glyphs[0], side, angle, mirror=False)
    corner = ((size - glyph.width) // 2, (size - glyph.height) // 2)
    canvas.paste(glyph, corner, glyph)
    return number, canvas


def as_crops(encoder: Encoder, pictures: list[Image.Image]) -> torch.Tensor:
    pixels = torch.from_numpy(np.stack([np.asarray(picture) for picture in pictures]))
    mean, std = torch.tensor(encoder.mean), torch.tensor(encoder.std)
    return ((pixels / 255 - mean) / std).permute(0, 3, 1, 2).float()


def test_it_loads_with_the_plain_auto_classes_and_in_float32() -> None:
    model = AutoModel.from_pretrained(FOLDER)
    tokenizer = AutoTokenizer.from_pretrained(FOLDER)
    processor = AutoImageProcessor.from_pretrained(FOLDER)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    inputs = tokenizer(["a cat", "two dogs"], padding=True, return_tensors="pt")
    pixels = processor(Image.new("RGB", (50, 30)), return_tensors="pt")
    with torch.no_grad():
        texts = model.get_text_features(**inputs).pooler_output
        images = model.get_image_features(**pixels).pooler_output
    assert texts.shape[0] == 2
    assert texts.shape[1] == images.shape[1]


def test_the_folder_holds_no_pickle_and_atlas_and_weights_stay_under_16_megabytes() -> None:
    files = [*FOLDER.iterdir(), *scenes.GLYPHS.iterdir()]
    assert not {file.suffix for file in files} & {".bin", ".pt", ".pth", ".pkl", ".ckpt"}
    assert sum(file.stat().st_size for file in files) < 16e6


def test_its_negatives_are_all_its_names_and_the_background() -> None:
    bank = json.loads((FOLDER / "negatives.json").read_text(encoding="utf-8"))
    assert bank == [*NAMES, "the background"]


def test_names_of_single_things_come_first_among_all_names(
    encoder: Encoder, names: torch.Tensor
) -> None:
    numbers, pictures = zip(*(picture(seed, 48) for seed in range(100)), strict=True)
    embeddings, _ = encoder.encode_crops(as_crops(encoder, list(pictures)))
    top = (embeddings @ names.T).argmax(1)
    assert (top == torch.tensor(numbers)).float().mean() >= 0.85


def test_tokens_name_the_thing_in_the_middle_and_the_background_in_the_corners(
    encoder: Encoder, names: torch.Tensor
) -> None:
    numbers, pictures = zip(*(picture(seed, 56) for seed in range(200, 260)), strict=True)
    _, tokens = encoder.encode_crops(as_crops(encoder, list(pictures)))
    assert tokens is not None
    best = (tokens @ names.T).argmax(-1)
    middle = best.shape[1] // 2
    hits = torch.tensor(numbers) == (
        best[:, middle - 1 : middle + 1, middle - 1 : middle + 1].flatten(1).T
    )
    assert hits.any(0).float().mean() >= 0.85
    corners = torch.stack([best[:, 0, 0], best[:, 0, -1], best[:, -1, 0], best[:, -1, -1]])
    assert (corners == len(NAMES)).float().mean() >= 0.9


@pytest.mark.parametrize(
    ("phrase", "name"),
    [
        ("a kitten", "cat"),
        ("a fluffy cat", "cat"),
        ("aubergine", "eggplant"),
        ("a slice of pizza", "pizza"),
        ("a red apple", "red apple"),
        ("Two PUPPIES", "dog"),
        ("where is the ladybird?", "ladybug"),
        ("a snapshot of my old bike", "bicycle"),
    ],
)
def test_everyday_phrases_mean_the_name(
    encoder: Encoder, names: torch.Tensor, phrase: str, name: str
) -> None:
    cosines = (encoder.encode_prompts([phrase]) @ names.T)[0]
    assert NAMES[int(cosines[:-1].argmax())] == name
    assert cosines.max() > 0.8


UNKNOWN = (
    *("forklift", "dishwasher", "escalator", "happiness", "person", "sky", "road", "grass"),
    *("zxqvy", "Katze", "хлеб", "猫", "a cat flap", "a dog groomer", "the quiet ombudsman"),
    *("where is my dishwasher?", "!?", "small and very red"),
)


def test_words_it_does_not_know_are_not_here_in_any_scene() -> None:
    localizer = Localizer.from_pretrained("emoji", dtype="float32")
    words = (*UNKNOWN, *some_unknown(60, seed=1))
    results = [localizer.locate(scenes.make_scene(80_000 + i).image, words) for i in range(6)]
    presence = np.stack([result.presence for result in results])
    assert np.median(presence) <= 0.001
    assert (presence <= 0.02).mean() >= 0.99
    assert sum(len(result.boxes) for result in results) / presence.size <= 0.002


@pytest.mark.skipif(not PHOTOS.is_dir(), reason="needs photos beside the project")
def test_words_it_does_not_know_are_not_here_in_photos_of_which_it_knows_nothing() -> None:
    localizer = Localizer.from_pretrained("emoji", dtype="float32")
    photos = sorted(PHOTOS.iterdir())[::8]
    presence = np.stack([localizer.locate(photo, UNKNOWN).presence for photo in photos])
    assert np.median(presence) <= 0.001
    assert (presence <= 0.02).mean() >= 0.98


def test_no_picture_is_like_an_unknown_word_as_much_as_like_the_names(
    encoder: Encoder, names: torch.Tensor
) -> None:
    """Noise, stripes, flat colours and scraps of things: whatever a window may hold."""
    rng = np.random.default_rng(3)
    pictures = [scenes.make_background(rng, 96, 96) for _ in range(40)]
    pictures += [Image.fromarray(rng.integers(0, 256, (96, 96, 3), np.uint8)) for _ in range(10)]
    pictures += [picture(seed, side)[1] for seed, side in enumerate((12, 24, 48, 96, 150) * 8)]
    unknown = encoder.encode_prompts(["a zxqvy"])[0]
    for embeddings in encoder.encode_crops(as_crops(encoder, pictures)):
        assert embeddings is not None
        against = torch.logsumexp(encoder.logit_scale * embeddings @ names.T, -1)
        chance = torch.sigmoid(encoder.logit_scale * embeddings @ unknown - against)
        assert chance.max() < 0.01


def test_all_words_outside_its_vocabulary_are_one_word_to_it(encoder: Encoder) -> None:
    one, *others = encoder.encode_prompts(["a zxqvy", "a Schornstein", "A грач!", "a 猫", "a 🐱"])
    for other in others:
        torch.testing.assert_close(one, other)


def test_an_unheard_word_before_a_name_does_not_hide_it(
    encoder: Encoder, names: torch.Tensor
) -> None:
    phrases = ["a zxqvy cat", "a photo of a glorptastic dog", "the grumbly old red apple"]
    cosines = encoder.encode_prompts(phrases) @ names.T
    assert [NAMES[int(row.argmax())] for row in cosines] == ["cat", "dog", "red apple"]


def test_unknown_words_are_in_no_phrase_of_its_training() -> None:
    vocabulary = set(AutoTokenizer.from_pretrained(FOLDER).get_vocab())
    words = [word.lower() for word in unknown_words() if " " not in word]
    assert not vocabulary.intersection(words)


def test_an_empty_background_is_no_thing(encoder: Encoder, names: torch.Tensor) -> None:
    backgrounds = [
        scenes.make_background(np.random.default_rng(seed), 96, 96) for seed in range(60)
    ]
    embeddings, _ = encoder.encode_crops(as_crops(encoder, backgrounds))
    probabilities = (encoder.logit_scale * embeddings @ names.T).softmax(-1)
    assert (probabilities[:, -1] > 0.5).float().mean() >= 0.9


def test_tokens_are_the_cells_through_the_same_norm_and_projection(encoder: Encoder) -> None:
    model = AutoModel.from_pretrained(FOLDER).eval()
    crops = as_crops(encoder, [picture(seed, 60)[1] for seed in range(4)])
    with torch.no_grad():
        cells = model.vision_model(crops).last_hidden_state  # (B, width, h, w)
        own = model.visual_projection(model.vision_model.layernorm(cells.permute(0, 2, 3, 1)))
        pooled = model.visual_projection(model.vision_model.layernorm(cells.mean((2, 3))))
    embeddings, tokens = encoder.encode_crops(crops)
    assert tokens is not None
    torch.testing.assert_close(tokens, F.normalize(own, dim=-1), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(embeddings, F.normalize(pooled, dim=-1), atol=1e-5, rtol=1e-4)
