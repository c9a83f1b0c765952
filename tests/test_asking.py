"""What `localize detect` is asked: words, files of prompts, pictures; with a small checkpoint."""

import json

import numpy as np
import pytest
from checkpoints import tiny_checkpoint
from PIL import Image

from localize.cli import main


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return str(tiny_checkpoint(tmp_path_factory.mktemp("clip"), "clip"))


@pytest.fixture
def folder(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (3, 6, 8, 3), np.uint8)
    for pixels, name in zip(noise, ["photo.png", "mug.png", "tea=pot.png"], strict=True):
        Image.fromarray(pixels).resize((80, 60)).save(tmp_path / name)
    (tmp_path / "words.txt").write_text("# pets\na cat\na dog\n")
    return tmp_path


@pytest.fixture
def detect(folder, checkpoint, monkeypatch):
    monkeypatch.chdir(folder)
    return lambda *words: main(["detect", "photo.png", *words, "--model", checkpoint])


def facts(folder):
    return json.loads((folder / "localize-out" / "photo.png.json").read_text("utf-8"))


def things(folder, **entry):
    entry = {"label": "vehicle", "any": ["car", "bus"], "threshold": 0, **entry}
    (folder / "things.json").write_text(json.dumps(["a cat", entry]))


def test_words_files_and_pictures_are_asked_together_in_this_order(folder, detect):
    things(folder, label="dog")
    words = ["-p", "a bird", "--prompts", "words.txt", "--prompts", "things.json"]
    assert detect(*words, "--like", "mug.png", "--like", "mug.png=our cup") == 0
    assert facts(folder)["prompts"] == ["a bird", "a cat", "a dog", "dog", "mug", "our cup"]


def test_results_and_exports_know_the_label_alone(folder, detect):
    things(folder)
    assert detect("--prompts", "things.json", "--export", "coco", "--overlays", "heatmaps") == 0
    found = facts(folder)
    assert found["prompts"] == ["a cat", "vehicle"]
    assert "vehicle" in {box["label"] for box in found["boxes"]}
    (exported,) = (folder / "localize-out" / "exports").rglob("*.json")
    names = [category["name"] for category in json.loads(exported.read_text())["categories"]]
    assert names == ["a cat", "vehicle"]
    assert (folder / "localize-out" / "photo.png.2-vehicle.heatmap.png").exists()


def test_the_threshold_of_one_prompt_leaves_that_of_others(folder, detect):
    things(folder)
    detect("--prompts", "things.json", "--threshold", "1")
    assert {box["label"] for box in facts(folder)["boxes"]} == {"vehicle"}
    things(folder, threshold=1)
    detect("--prompts", "things.json", "--threshold", "0")
    assert {box["label"] for box in facts(folder)["boxes"]} == {"a cat"}


@pytest.mark.parametrize(
    "changed", [{"any": ["car"]}, {"threshold": 0.5}, {"negatives": ["toy"]}, {"label": "engine"}]
)
def test_resume_asks_anew_where_a_file_asks_for_something_else(folder, detect, capsys, changed):
    things(folder)
    detect("--prompts", "things.json")
    detect("--prompts", "things.json", "--resume")
    assert "Nothing was left to do" in capsys.readouterr().out
    things(folder, **changed)
    detect("--prompts", "things.json", "--resume")
    assert "Nothing was left to do" not in capsys.readouterr().out


def test_resume_asks_anew_where_a_picture_shows_something_else(folder, detect, capsys):
    arguments = ["--like", "mug.png", "--unlike", "tea=pot.png", "--resume"]
    detect(*arguments)
    (folder / "mug.png").touch()
    capsys.readouterr()
    detect(*arguments)
    assert "Nothing was left to do" in capsys.readouterr().out
    for name in ("mug.png", "tea=pot.png"):
        Image.new("RGB", (80, 60), "red").save(folder / name)
        detect(*arguments)
        assert "Nothing was left to do" not in capsys.readouterr().out


def test_a_plain_list_asks_what_the_same_words_ask(folder, detect, capsys):
    detect("-p", "a cat", "a dog")
    detect("--prompts", "words.txt", "--resume")
    assert "Nothing was left to do" in capsys.readouterr().out


def test_a_picture_with_the_label_of_a_prompt_is_one_more_alternative(folder, detect):
    assert detect("-p", "mug", "--like", "mug.png", "--like", "tea=pot.png=mug") == 0
    found = facts(folder)
    assert found["prompts"] == ["mug"]
    (asked,) = found["settings"]["asked"]
    assert len(asked["any"]) == 1
    assert len(set(asked["like"])) == 2


def test_a_file_whose_name_has_an_equals_sign_may_have_a_label_or_none(folder, detect):
    detect("--like", "tea=pot.png")
    assert facts(folder)["prompts"] == ["tea=pot"]
    detect("--like", "tea=pot.png=kettle")
    assert facts(folder)["prompts"] == ["kettle"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "nothing is asked for"),
        (["--unlike", "mug.png"], "--like"),
        (["--like", "nowhere.png=mug"], "cannot read nowhere.png: there is no such file"),
        (["--like", "words.txt"], "cannot read words.txt: it is not a picture"),
        (["--like", "mug.png", "--unlike", "."], "cannot read .: it is a folder"),
        (["--like", "mug.png="], "no label behind its ="),
        (["--like", "mug.png", "--max-pixels", "100"], "max_pixels"),
        (["--prompts", "nowhere.txt"], "nowhere.txt: there is no such file"),
        (["--prompts", "mug.png"], "mug.png, line 1: it is not text"),
        (["-p", "vehicle", "--prompts", "things.json"], "two prompts are called 'vehicle'"),
    ],
)
def test_what_cannot_be_asked_is_refused_in_one_sentence(folder, detect, capsys, words, said):
    things(folder)
    assert detect(*words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line
    assert not (folder / "localize-out").exists()
