"""Files of prompts: one a line, YAML, JSON; what is wrong with one is said with its line."""

import json
import os
import threading

import pytest
from PIL import Image

from localize.images import read_image
from localize.prompt_files import MAX_BYTES, PromptFileError, read_prompts
from localize.prompts import Prompt, as_prompt

VEHICLE = Prompt.of("vehicle", any=["car", "a big red bus"], negatives=["toy"], threshold=0.3)
CAT = as_prompt("a cat")

YAML = """\
# what we look for
- a cat
- label: vehicle
  any: [car, a big red bus]
  negatives:
    - toy
  threshold: 0.3
"""


def write(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def refusal(path):
    with pytest.raises(PromptFileError) as refused:
        read_prompts(path)
    said = str(refused.value)
    assert len(said.splitlines()) == 1
    assert path.name in said
    return said


@pytest.mark.parametrize("name", ["words.txt", "words", "words.md"])
def test_a_plain_list_has_one_prompt_a_line_with_blanks_and_remarks_between(tmp_path, name):
    path = write(tmp_path, name, "\ufeff# pets\r\n\r\n  a cat \r\n猫 on a mat\n\t\nC# book")
    assert read_prompts(path) == [CAT, as_prompt("猫 on a mat"), as_prompt("C# book")]


@pytest.mark.parametrize("name", ["words.yaml", "words.YML"])
def test_yaml_has_label_alternatives_negatives_and_threshold_of_each(tmp_path, name):
    assert read_prompts(write(tmp_path, name, YAML)) == [CAT, VEHICLE]


def test_json_says_the_same_with_tabs_and_escapes_too(tmp_path):
    entry = {"label": "vehicle", "any": ["car", "a big red bus"], "negatives": ["toy"]}
    text = json.dumps(["a cat", entry | {"threshold": 0.3}, "🐈, [or] 猫"], indent="\t")
    assert read_prompts(write(tmp_path, "w.json", text)) == [CAT, VEHICLE, as_prompt("🐈, [or] 猫")]


def test_a_list_may_come_through_a_pipe(tmp_path):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    writer = threading.Thread(target=path.write_text, args=("a cat\n",))
    writer.start()
    assert read_prompts(path) == [CAT]
    writer.join()


@pytest.fixture
def crops(tmp_path):
    """Pictures of one colour each, in a folder beside the file of prompts."""
    (tmp_path / "crops").mkdir()
    for name in ("red", "blue", "grey"):
        Image.new("RGB", (8, 6), name).save(tmp_path / "crops" / f"{name}.png")
    return tmp_path / "crops"


def test_pictures_stand_beside_words_by_their_paths_from_the_file_on(tmp_path, crops):
    grey = json.dumps(str(crops / "grey.png"))
    text = f"""\
- label: by picture
  like: crops/red.png
- label: both
  any: [mug]
  like: [crops/red.png, crops/blue.png]
  unlike: [{grey}]
- label: words
  unlike: crops/blue.png
"""
    by_picture, both, words = read_prompts(write(tmp_path, "p.yaml", text))
    red, blue, grey = (read_image(crops / f"{name}.png") for name in ("red", "blue", "grey"))
    for prompt, expected in (
        (by_picture, Prompt.from_image(red, "by picture")),
        (both, Prompt.of("both", any=["mug"], like=[red, blue], unlike=[grey])),
        (words, Prompt.of("words", unlike=[blue])),
    ):
        assert prompt.to_dict() == expected.to_dict()
    assert by_picture.texts == ()
    assert words.texts == as_prompt("words").texts


def test_a_picture_that_cannot_be_read_is_named_with_the_line(tmp_path, crops):
    (crops / "no.png").write_text("no picture")
    for name in ("gone.png", "no.png"):
        said = refusal(write(tmp_path, "p.yaml", f"- a cat\n- label: x\n  like: crops/{name}\n"))
        assert "line 2" in said
        assert f"crops/{name}" in said
    with pytest.raises(PromptFileError, match="more than"):
        read_prompts(write(tmp_path, "p.yaml", "- {label: x, like: crops/red.png}"), max_pixels=9)


@pytest.mark.parametrize(
    ("content", "line", "words"),
    [
        ("- {label: dog, like: 7}\n", 1, "like must be a list of texts, not a number"),
        ("- a cat\n- label: dog\n  treshold: 0.3\n", 2, "treshold"),
        ("- a cat\n- any: [dog]\n", 2, "no label"),
        ("- a cat\n- a dog\n- a cat\n", 3, "'a cat' has been asked for before"),
        ("- a cat\n- label: dog\n  label: fox\n", 2, "twice"),
        ("- a cat\n- ' '\n", 2, "blank"),
        ("- {label: ' ', any: [dog]}\n", 1, "the label must not be blank"),
        ("- {label: dog, any: [hound, '']}\n", 1, "each of any must not be blank"),
        ("- a cat\n- no\n", 2, "quotes make it text"),
        ("- a cat\n- 2024-01-01\n", 2, "must be text, not a date"),
        ("- a cat\n- [dog, fox]\n", 2, "must be text, not a list"),
        ("- {label: dog, any: hound}\n", 1, "any must be a list of texts, not text"),
        ("- {label: dog, any: [[hound]]}\n", 1, "each of any must be text, not a list"),
        ("- {label: dog, negatives: [7]}\n", 1, "each of negatives must be text, not a number"),
        ("- {label: dog, threshold: high}\n", 1, "threshold must be a number"),
        ("- {label: dog, threshold: true}\n", 1, "threshold must be a number"),
        ("- {label: dog, threshold: 1.5}\n", 1, "threshold must be in [0, 1]"),
        ("- {label: dog, threshold: .nan}\n", 1, "threshold must be in [0, 1]"),
        ("- {label: dog, negatives: [dog]}\n", 1, "both asked for and a negative"),
        ("- {1: dog}\n", 1, "a number is no key"),
        ("- {[1]: dog}\n", 1, "a list is no key"),
        ("- a cat\n- 2024-13-45\n", 2, "cannot be read"),
        ("vehicle: [car]\n", 1, "must hold a list of prompts"),
        ("- a cat\n- [dog\n", 3, "not YAML"),
        ("- a cat\n--- \n- a dog\n", 2, "not YAML"),
        ("- a cat\n- !!python/object/apply:os.system [ls]\n", 2, "tags such as"),
        ("- !!str 7\n", 1, "tags such as"),
    ],
)
def test_what_is_wrong_in_yaml_is_said_with_its_line(tmp_path, content, line, words):
    said = refusal(write(tmp_path, "words.yaml", content))
    assert f"words.yaml, line {line}: " in said
    assert words in said


def test_aliases_that_stand_for_billions_of_words_are_refused_at_once(tmp_path):
    levels = [f"- &l{n} [{', '.join([f'*l{n - 1}'] * 9)}]" for n in range(1, 12)]
    said = refusal(write(tmp_path, "bomb.yaml", "\n".join(["- &l0 [cat]", *levels])))
    assert "line 2: aliases such as *l0 are not read" in said


@pytest.mark.parametrize(
    ("content", "where", "words"),
    [
        ('["a cat",\n {"label": "dog", "treshold": 1}]', ", line 2: ", "treshold"),
        ('["a cat",\n\n "a cat"]', ", line 3: ", "has been asked for before"),
        ('["a cat",\n "a dog"', ", line 2: ", "not JSON"),
        ('{"label": "dog"}', ", line 1: ", "must hold a list of prompts, not a mapping"),
        ('[{"label": "dog", "label": "fox"}]', ": ", "twice"),
        ('[{"label": "dog", "threshold": NaN}]', ", line 1: ", "threshold must be in [0, 1]"),
        ('["\\ud83d"]', ", line 1: ", "half a character"),
        ("[" * 100_000, ": ", "nested too deep"),
        ("[" + "9" * 5000 + "]", ": ", "not JSON"),
        ("", ", line 1: ", "not JSON"),
    ],
)
def test_what_is_wrong_in_json_is_said_with_its_line(tmp_path, content, where, words):
    said = refusal(write(tmp_path, "words.json", content))
    assert f"words.json{where}" in said
    assert words in said


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("a cat\nun caf\xe9\n".encode("latin-1"), ", line 2: it is not text in UTF-8"),
        ("a cat\n".encode("utf-16"), "it is not text in UTF-8"),
        (b"a cat\n\0\0", ", line 2: it is not text"),
        (b"\x89PNG\r\n\x1a\n", "it is not text in UTF-8"),
        (b"", "there are no prompts in it"),
        (b"# nothing\n\n", "there are no prompts in it"),
        (b"a cat\n\na cat\n", ", line 3: 'a cat' has been asked for before"),
        (b"a" * (MAX_BYTES + 1), "larger than 4 MB"),
    ],
)
def test_what_is_no_list_of_prompts_is_refused(tmp_path, content, words):
    assert words in refusal(write(tmp_path, "words.txt", content))


def test_yaml_without_prompts_is_refused(tmp_path):
    assert "no prompts in it" in refusal(write(tmp_path, "words.yaml", "# nothing yet\n"))
    assert "not YAML" in refusal(write(tmp_path, "bell.yaml", "- a\x07cat\n"))
    assert "nested too deep" in refusal(write(tmp_path, "deep.yaml", "- " + "[" * 100_000))


def test_a_file_that_is_not_there_or_a_folder_is_named(tmp_path):
    assert "there is no such file" in refusal(tmp_path / "nowhere.txt")
    assert "it is a folder" in refusal(tmp_path)
