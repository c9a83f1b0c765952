"""The command line: outputs, exit codes and clear errors, with a small real checkpoint."""

import io
import json
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from checkpoints import tiny_checkpoint
from PIL import Image

import localize
from localize import Localization
from localize.cli import main
from localize.runs import Run

PROMPTS = ["-p", "a cat", "猫 on a mat"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return str(tiny_checkpoint(tmp_path_factory.mktemp("clip"), "clip"))


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    noise = np.random.default_rng(0).integers(0, 256, (3, 6, 8, 3), np.uint8)
    for pixels, name in zip(noise, ["b.png", "a photo.jpg", "more/b.png"], strict=True):
        Image.fromarray(pixels).resize((80, 60)).save(folder / name)
    return folder


def detect(*arguments):
    return main(["detect", *map(str, arguments)])


def answered(folder):
    """The JSON files of pictures in a folder, without the one of the whole run."""
    return sorted(path for path in folder.rglob("*.json") if path.name != "run.json")


def test_a_folder_gives_json_and_an_overlay_for_each_picture(photos, tmp_path, checkpoint, capsys):
    output = tmp_path / "out"
    assert detect(photos, *PROMPTS, "--model", checkpoint, "-o", output) == 0
    for name in ("a photo.jpg", "b.png", "more/b.png"):
        found = json.loads((output / f"{name}.json").read_text("utf-8"))
        assert found["version"] == 2
        status = (photos / name).stat()
        assert found["image"] == {
            "file": name.split("/")[-1],
            "path": str(photos / name),
            "bytes": status.st_size,
            "modified_ns": status.st_mtime_ns,
            "width": 80,
            "height": 60,
        }
        assert found["prompts"] == ["a cat", "猫 on a mat"]
        assert len(found["presence"]) == 2
        assert Image.open(output / f"{name}.boxes.png").size[0] >= 80
    said = capsys.readouterr()
    assert "a photo.jpg" in said.out
    assert said.out.splitlines()[-1] == f"The answers for 3 images are in {output}."
    assert said.err == ""


def test_heatmaps_are_written_for_each_prompt_when_asked_for(photos, tmp_path, checkpoint):
    detect(
        photos / "b.png", *PROMPTS, "--model", checkpoint, "-o", tmp_path, "--overlays", "heatmaps"
    )
    assert {path.name for path in tmp_path.glob("b.png.*")} == {
        "b.png.json",
        "b.png.boxes.png",
        "b.png.1-a-cat.heatmap.png",
        "b.png.2-猫-on-a-mat.heatmap.png",
    }


def test_quiet_says_nothing(photos, tmp_path, checkpoint, capsys):
    assert detect(photos, *PROMPTS, "--model", checkpoint, "-o", tmp_path, "--quiet") == 0
    assert capsys.readouterr() == ("", "")


def test_a_broken_picture_is_named_and_the_others_are_done(photos, tmp_path, checkpoint, capsys):
    (photos / "c.png").write_bytes((photos / "b.png").read_bytes()[:60])
    output = tmp_path / "out"
    missing = photos / "no such file.png"
    code = detect(photos, missing, *PROMPTS, "--model", checkpoint, "-o", output)
    said = capsys.readouterr().err.splitlines()
    assert code == 1
    assert len(said) == 2
    assert any("c.png" in line for line in said)
    assert any("no such file.png" in line for line in said)
    assert len(answered(output)) == 3


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--stride", "0"], "stride"),
        (["--threshold", "nan"], "threshold"),
        (["--scales", "-1"], "scales"),
        (["--batch-size", "0"], "batch_size"),
        (["--device", "abacus"], "abacus"),
        (["--model", "no/such/folder/at/all"], "no/such/folder"),
        (["-p", " "], "blank"),
    ],
)
def test_a_senseless_command_is_refused_in_one_sentence(
    photos, tmp_path, checkpoint, capsys, arguments, words
):
    code = detect(photos, "-p", "a cat", "--model", checkpoint, "-o", tmp_path, *arguments)
    said = capsys.readouterr().err
    assert code == 2
    assert words in said
    assert len(said.splitlines()) == 1


def test_usage_errors_exit_with_2(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["detect", "photo.jpg", "-p"])
    assert stop.value.code == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert "--prompt" in said
    assert "localize detect --help" in said


def test_images_may_stand_behind_the_prompts(photos, tmp_path, checkpoint, monkeypatch):
    monkeypatch.chdir(photos)
    arguments = ["--model", checkpoint, "-o", tmp_path / "out"]
    assert detect("-p", "a cat", "a dog", "b.png", "a*.jpg", *arguments) == 0
    found = [json.loads(path.read_text()) for path in answered(tmp_path / "out")]
    assert sorted(each["image"]["file"] for each in found) == ["a photo.jpg", "b.png"]
    assert all(each["prompts"] == ["a cat", "a dog"] for each in found)


def test_a_command_without_images_says_what_to_type(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert detect("-p", "a cat", "a dog") == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert 'localize detect photo.jpg -p "a cat"' in said
    assert detect("-p", "a cat", "nowhere.jpg") == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert said == "localize: there is no such image: nowhere.jpg"


def test_the_version_is_told(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out == f"localize {localize.__version__}\n"


@pytest.mark.parametrize("command", ["detect", "demo"])
def test_an_output_folder_named_like_a_picture_is_refused(photos, tmp_path, capsys, command):
    words = [photos, "-p", "a cat"] if command == "detect" else []
    assert main([command, *map(str, words), "-o", str(tmp_path / "found.png")]) == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert "--output names a folder" in said
    assert not (tmp_path / "found.png").exists()


def test_a_report_that_cannot_be_written_is_refused_before_the_work(tmp_path, capsys):
    (tmp_path / "file").touch()
    for target in (tmp_path, tmp_path / "file" / "report.json"):
        # A million scenes would take days.
        assert main(["evaluate", "--scenes", "1000000", "--json", str(target)]) == 1
        (said,) = capsys.readouterr().err.splitlines()
        assert "cannot write" in said


def test_an_output_that_is_a_file_is_refused(photos, tmp_path, checkpoint, capsys):
    output = tmp_path / "out"
    output.write_text("mine")
    assert detect(photos, *PROMPTS, "--model", checkpoint, "-o", output) == 1
    assert "out" in capsys.readouterr().err
    assert output.read_text() == "mine"


def test_resume_does_what_is_left_and_leaves_the_rest(photos, tmp_path, checkpoint):
    arguments = [photos, *PROMPTS, "--model", checkpoint, "-o", tmp_path / "out"]
    detect(*arguments)
    first = {path: path.read_bytes() for path in answered(tmp_path / "out")}
    before = {path: path.stat().st_mtime_ns for path in first}
    lost = tmp_path / "out" / "b.png.json"
    lost.unlink()
    assert detect(*arguments, "--resume") == 0
    assert {path: path.read_bytes() for path in first} == first
    rewritten = {path for path in first if path.stat().st_mtime_ns != before[path]}
    assert rewritten == {lost}


def test_resume_with_another_question_asks_anew(photos, tmp_path, checkpoint):
    arguments = [photos / "b.png", "--model", checkpoint, "-o", tmp_path]
    detect(*arguments, "-p", "a cat")
    detect(*arguments, "-p", "a dog", "--resume")
    assert json.loads((tmp_path / "b.png.json").read_text())["prompts"] == ["a dog"]


def test_pictures_of_one_name_in_two_folders_do_not_overwrite_each_other(
    photos, tmp_path, checkpoint
):
    output = tmp_path / "out"
    detect(
        photos / "b.png", photos / "more" / "b.png", *PROMPTS, "--model", checkpoint, "-o", output
    )
    assert [path.relative_to(output).as_posix() for path in answered(output)] == [
        "b.png.json",
        "more/b.png.json",
    ]


def test_overlays_of_an_earlier_run_are_not_taken_for_photos(photos, checkpoint):
    arguments = [
        photos,
        "-p",
        "a cat",
        "--model",
        checkpoint,
        "-o",
        photos / "out",
        "--overlays",
        "heatmaps",
    ]
    detect(*arguments)
    before = sorted(photos.rglob("*"))
    detect(*arguments)
    assert sorted(photos.rglob("*")) == before


def test_a_picture_of_the_users_own_is_never_written_over(photos, tmp_path, checkpoint, capsys):
    mine = photos / "b.png.boxes.png"
    mine.write_bytes((photos / "a photo.jpg").read_bytes())
    before = mine.read_bytes()
    assert detect(photos, *PROMPTS, "--model", checkpoint, "-o", photos) == 2
    assert f"{mine} is an image to be read" in capsys.readouterr().err
    assert mine.read_bytes() == before
    assert detect(photos, *PROMPTS, "--model", checkpoint, "-o", tmp_path / "out") == 0


def test_a_picture_whose_output_has_too_long_a_name_is_named_and_the_others_are_done(
    photos, tmp_path, checkpoint, capsys
):
    long = photos / ("x" * 250 + ".png")
    long.write_bytes((photos / "b.png").read_bytes())
    output = tmp_path / "out"
    assert detect(photos, *PROMPTS, "--model", checkpoint, "-o", output) == 1
    (said,) = capsys.readouterr().err.splitlines()
    assert long.name in said
    assert "too long" in said
    assert len(answered(output)) == 3


@pytest.fixture
def finished(photos, tmp_path, checkpoint):
    """A run over b.png into out, and the command that resumes it; True if it did anything."""
    arguments = [photos / "b.png", "-p", "a cat", "--model", checkpoint, "-o", tmp_path / "out"]
    assert detect(*arguments) == 0
    facts = tmp_path / "out" / "b.png.json"

    def resume(*more):
        before = facts.stat().st_mtime_ns
        assert detect(*arguments, "--resume", *more) == 0
        return facts.stat().st_mtime_ns != before

    return resume


def test_resume_with_nothing_to_do_says_so(finished, tmp_path, capsys):
    capsys.readouterr()
    assert not finished()
    *_, said = capsys.readouterr().out.splitlines()
    assert said == f"Nothing was left to do: the answers for 1 image are in {tmp_path / 'out'}."


def test_resume_does_again_a_picture_that_an_older_file_has_replaced(finished, photos):
    other = photos / "a photo.jpg"
    os.utime(other, ns=(10**18, 10**18))
    other.replace(photos / "b.png")
    assert finished()
    assert not finished()


def test_resume_does_again_what_other_weights_in_the_same_folder_have_answered(
    photos, tmp_path, capsys
):
    model = tiny_checkpoint(tmp_path / "model", "clip")
    arguments = [photos / "b.png", "-p", "a cat", "--model", model, "-o", tmp_path / "out"]
    detect(*arguments)
    torch.manual_seed(5)
    tiny_checkpoint(tmp_path / "model", "clip")
    assert detect(*arguments, "--resume") == 0
    assert "Nothing was left to do" not in capsys.readouterr().out
    assert detect(*arguments, "--resume") == 0
    assert "Nothing was left to do" in capsys.readouterr().out


def test_another_batch_size_makes_no_picture_anew(finished):
    assert not finished("--batch-size", "3")
    assert finished("--stride", "0.5")


def test_answers_of_another_picture_of_the_same_name_are_not_written_over(
    finished, photos, tmp_path, checkpoint, capsys
):
    facts = tmp_path / "out" / "b.png.json"
    before = facts.read_bytes()
    arguments = ["-p", "a cat", "--model", checkpoint, "-o", tmp_path / "out"]
    for more in ([], ["--resume"]):
        capsys.readouterr()
        assert detect(photos / "more" / "b.png", *arguments, *more) == 2
        (said,) = capsys.readouterr().err.splitlines()
        assert f"{facts} has the answers for {photos / 'b.png'}, another picture" in said
        assert facts.read_bytes() == before


def test_a_folder_of_pictures_may_be_moved_and_asked_again(finished, photos, tmp_path, checkpoint):
    moved = photos.rename(tmp_path / "moved")
    arguments = ["-p", "a cat", "--model", checkpoint, "-o", tmp_path / "out"]
    assert detect(moved / "b.png", *arguments) == 0
    facts = json.loads((tmp_path / "out" / "b.png.json").read_text())
    assert facts["image"]["path"] == str(moved / "b.png")


def test_overlays_of_any_earlier_run_are_left_out_and_that_is_said(
    photos, tmp_path, checkpoint, capsys
):
    arguments = [photos, "-p", "a cat", "--model", checkpoint]
    detect(*arguments, "-o", photos / "out", "--overlays", "heatmaps")
    capsys.readouterr()
    assert detect(*arguments, "-o", tmp_path / "elsewhere") == 0
    assert capsys.readouterr().err == "localize: 6 overlays of earlier runs are left out\n"
    assert len(answered(tmp_path / "elsewhere")) == 3


def test_heatmaps_of_earlier_prompts_go_when_new_ones_come(photos, tmp_path, checkpoint):
    mine = tmp_path / "b.png.mine.heatmap.png"
    mine.touch()
    arguments = [photos / "b.png", "--model", checkpoint, "-o", tmp_path, "--overlays", "heatmaps"]
    detect(*arguments, "-p", "a cat", "a dog")
    detect(*arguments, "-p", "a dog")
    assert {path.name for path in tmp_path.glob("*.heatmap.png")} == {
        "b.png.1-a-dog.heatmap.png",
        mine.name,
    }


def test_heatmaps_go_too_that_another_run_has_written_meanwhile(photos, tmp_path):
    def answer(prompt: str, kind: type[Localization] = Localization) -> Localization:
        pixels, map_ = np.zeros((24, 32, 3), np.uint8), np.zeros((1, 6, 8), np.float32)
        return kind(pixels, "b.png", "model", (prompt,), np.zeros(1, np.float32), map_, [])

    class Overtaken(Localization):
        def boxes_overlay(self, *, legend: bool = True) -> Image.Image:
            other.write(task, answer("a dog"))
            return super().boxes_overlay(legend=legend)

    first, other = (Run(tmp_path / "out", (name,), {}, "heatmaps") for name in ("a cat", "a dog"))
    (task,) = first.tasks([photos / "b.png"])
    first.write(task, answer("a cat", Overtaken))
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "b.png.1-a-cat.heatmap.png",
        "b.png.boxes.png",
        "b.png.json",
    }


def test_resume_makes_what_an_earlier_run_was_not_asked_for(photos, tmp_path, checkpoint):
    arguments = [photos / "b.png", "-p", "a cat", "--model", checkpoint, "-o", tmp_path]
    detect(*arguments)
    detect(*arguments, "--resume", "--overlays", "heatmaps")
    assert (tmp_path / "b.png.1-a-cat.heatmap.png").exists()


@pytest.mark.parametrize("content", ["", "[]", "null", "{", "[" * 100_000, "\0"])
def test_resume_does_again_what_left_a_damaged_file(photos, tmp_path, checkpoint, content):
    arguments = [photos / "b.png", "-p", "a cat", "--model", checkpoint, "-o", tmp_path]
    (tmp_path / "b.png.json").write_text(content)
    (tmp_path / "b.png.boxes.png").touch()
    assert detect(*arguments, "--resume") == 0
    assert json.loads((tmp_path / "b.png.json").read_text())["prompts"] == ["a cat"]


def test_prompts_of_any_characters_are_printed_where_the_terminal_lacks_them(
    photos, tmp_path, checkpoint, monkeypatch
):
    odd = ["猫", "🐱", "\x1b[31mred", "undecodable \udcff", "two\nlines"]
    stdout = io.TextIOWrapper(io.BytesIO(), "ascii")
    monkeypatch.setattr(sys, "stdout", stdout)
    arguments = [photos / "b.png", "-p", *odd, "--model", checkpoint, "-o", tmp_path]
    assert detect(*arguments, "--overlays", "heatmaps") == 0
    printed = stdout.buffer.getvalue().decode("ascii")
    assert printed.index("two\\nlines") > 0
    assert len(printed.split("\n\n")[0].splitlines()) == 1 + len(odd)
    assert "\x1b" not in printed
    assert json.loads((tmp_path / "b.png.json").read_text("utf-8"))["prompts"] == odd
    assert len(list(tmp_path.glob("*.heatmap.png"))) == len(odd)


def test_a_closed_stdout_or_stderr_is_no_error(photos, tmp_path, checkpoint, monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    assert detect(photos, *PROMPTS, "--model", checkpoint, "-o", tmp_path / "out") == 0
    monkeypatch.setattr(sys, "stderr", None)
    (photos / "c.png").touch()
    assert detect(photos, *PROMPTS, "--model", checkpoint, "-o", tmp_path / "out") == 1


def test_a_prompt_that_is_cut_is_said_in_one_line_and_not_at_all_when_quiet(
    photos, tmp_path, checkpoint, capsys
):
    arguments = [photos, "-p", "a very long prompt " * 50, "--model", checkpoint, "-o", tmp_path]
    assert detect(*arguments) == 0
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith("localize: prompts over 40 tokens are cut")
    assert detect(*arguments, "--quiet") == 0
    assert capsys.readouterr().err == ""


def test_running_a_command_from_python_leaves_signals_and_limits_as_they_were(
    photos, tmp_path, checkpoint
):
    def own(*_):
        raise AssertionError("nobody sent a signal")

    before, limit = signal.signal(signal.SIGTERM, own), Image.MAX_IMAGE_PIXELS
    try:
        detect(photos / "b.png", *PROMPTS, "--model", checkpoint, "-o", tmp_path, "--quiet")
        assert signal.getsignal(signal.SIGTERM) is own
    finally:
        signal.signal(signal.SIGTERM, before)
    assert limit == Image.MAX_IMAGE_PIXELS


def test_a_command_may_be_run_from_any_thread(photos, tmp_path, checkpoint):
    arguments = [photos / "b.png", *PROMPTS, "--model", checkpoint, "-o", tmp_path, "--quiet"]
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(detect, *arguments).result() == 0


def test_help_loads_neither_torch_nor_numpy():
    code = (
        "import sys\nfrom localize.cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "print(sorted({'torch', 'numpy', 'transformers', 'PIL', 'cv2'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_demo_finds_the_cat_and_the_butterfly_and_no_bicycle(tmp_path, capsys):
    assert main(["demo", "-o", str(tmp_path)]) == 0
    found = json.loads((tmp_path / "scene.json").read_text())
    assert {box["label"] for box in found["boxes"]} == {"a cat", "a butterfly"}
    assert {path.name for path in tmp_path.iterdir()} == {
        "scene.png",
        "scene.json",
        "boxes.png",
        "a-cat.png",
        "a-butterfly.png",
        "a-bicycle.png",
    }
    assert "a bicycle: not here" in capsys.readouterr().out
