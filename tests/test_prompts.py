"""Prompts: label and text kept apart, ensembles for bare nouns, phrases as they are."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from localize.images import ImageError
from localize.prompts import BANK, TEMPLATES, Prompt, as_prompt, in_words


@pytest.mark.parametrize("noun", ["cat", "fire hydrant", "Golden retriever puppy"])
def test_a_bare_noun_becomes_an_ensemble(noun):
    prompt = as_prompt(noun)
    assert prompt.label == noun
    assert len(prompt.texts) == len(TEMPLATES)
    assert all(f"a {noun}" in text for text in prompt.texts)


def test_a_noun_that_begins_with_a_vowel_gets_its_article():
    assert all("an apple" in text for text in as_prompt("apple").texts)


@pytest.mark.parametrize(
    "phrase",
    [
        "a fluffy cat",
        "the red car",
        "man with umbrella",
        "A dog that runs after a ball.",
        "dog!",
        "two birds",
    ],
)
def test_a_phrase_or_sentence_is_taken_as_it_is(phrase):
    assert as_prompt(phrase) == Prompt(phrase, (phrase,))


def test_white_space_around_and_inside_a_prompt_does_not_change_what_is_read():
    assert as_prompt("  a   fluffy cat\n").texts == ("a fluffy cat",)


def test_a_prompt_of_the_users_own_is_kept():
    own = Prompt("tabby", ("a striped cat", "a tabby cat"))
    assert as_prompt(own) is own


@pytest.mark.parametrize("blank", ["", "   ", "\n"])
def test_a_blank_prompt_is_refused(blank):
    with pytest.raises(ValueError, match="blank"):
        as_prompt(blank)


def test_a_number_is_no_prompt():
    with pytest.raises(TypeError, match="int"):
        as_prompt(7)


def test_the_bank_names_each_thing_once():
    assert len(set(BANK)) == len(BANK)


def test_alternatives_are_kept_apart_and_the_label_names_them_all():
    vehicle = Prompt.of("vehicle", any=["car", "a big red bus"])
    assert vehicle.label == "vehicle"
    assert vehicle.alternatives == (as_prompt("car").texts, ("a big red bus",))
    assert Prompt.of("car") == as_prompt("car")


@pytest.mark.parametrize("wrong", ["car", 7])
@pytest.mark.parametrize("name", ["any", "negatives"])
def test_alternatives_and_negatives_that_are_no_list_are_refused(name, wrong):
    with pytest.raises(TypeError, match=f"{name} must be several texts"):
        Prompt.of("vehicle", **{name: wrong})


@pytest.mark.parametrize(
    ("wrong", "kind", "words"),
    [
        ({"threshold": "high"}, TypeError, "threshold must be a number"),
        ({"threshold": 1.01}, ValueError, r"threshold must be in \[0, 1\]"),
        ({"threshold": float("nan")}, ValueError, r"threshold must be in \[0, 1\]"),
        ({"negatives": [" "]}, ValueError, "blank"),
        ({"negatives": [7]}, TypeError, "int"),
        ({"negatives": ["vehicle"]}, ValueError, "'vehicle' is both asked for and a negative"),
    ],
)
def test_negatives_and_thresholds_that_make_no_sense_are_refused(wrong, kind, words):
    with pytest.raises(kind, match=words):
        Prompt.of("vehicle", **wrong)


def test_plain_data_of_a_prompt_tell_it_from_any_other():
    pixels = np.zeros((8, 6, 3), np.uint8)
    like = Prompt.from_image(pixels, "x")
    prompts = [
        as_prompt("x"),
        Prompt.of("x", any=["y"]),
        Prompt.of("x", any=["y", "z"]),
        Prompt.of("x", negatives=["y"]),
        Prompt.of("x", threshold=0.5),
        like,
        Prompt.from_image(pixels.reshape(6, 8, 3), "x"),
        Prompt.from_image(pixels + 1, "x"),
        Prompt.from_image(pixels, "x", words="x"),
        Prompt.from_image(pixels, "x", unlike=[pixels]),
    ]
    told = [json.dumps(prompt.to_dict()) for prompt in prompts]
    assert len(set(told)) == len(prompts)
    assert Prompt.from_image(pixels.copy(), "x").to_dict() == like.to_dict()


def test_a_picture_as_a_prompt_is_named_by_its_label_its_words_or_its_file(tmp_path):
    pixels = np.zeros((8, 8, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "my crop.png")
    assert Prompt.from_image(tmp_path / "my crop.png").label == "my crop"
    assert Prompt.from_image(pixels, words="cat").label == "cat"
    assert Prompt.from_image(pixels, "tabby", words="cat").label == "tabby"
    with pytest.raises(ImageError, match="no such file"):
        Prompt.from_image(tmp_path / "missing.png")


def test_a_picture_in_words_lies_among_the_words_it_is_most_like():
    bank = torch.eye(6)[:4]
    picture = F.normalize(torch.tensor([[0.2, 0.0, 0.1, 0.0, 0.9, 0.3]]), dim=-1)
    (found,) = in_words(picture, bank, 30.0)
    weights = torch.softmax(60 * bank @ picture[0], 0)
    torch.testing.assert_close(found[:4], F.normalize(weights, dim=-1))
    assert found.argmax() == 0
