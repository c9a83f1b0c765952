"""Prompts: label and text kept apart, ensembles for bare nouns, phrases as they are."""

import pytest

from localize.prompts import BANK, TEMPLATES, Prompt, as_prompt


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
