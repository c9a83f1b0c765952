"""Words on the command line -> the Python API, and clear errors.

Knows options, exit codes and where outputs go; must not know algorithms. Imports what is heavy only
once the words on the command line make sense.
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, fields
from functools import partial
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

from localize.names import display_name, printable
from localize.options import Options

if TYPE_CHECKING:
    from localize.evaluation.samples import Sample
    from localize.images import ImageSource
    from localize.localizer import Localizer
    from localize.result import Localization

DONE, SOME_FAILED, USAGE = 0, 1, 2
INTERRUPTED, TERMINATED = 130, 143

NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}
"""Why an output cannot be written that will keep all others from being written too."""

OVERLAY, HEATMAP = ".boxes.png", ".heatmap.png"
DEMO_PROMPTS = ("a cat", "a butterfly", "a bicycle")


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns its exit code: 0 done, 1 some inputs failed, 2 usage."""
    parsed = _parser().parse_args(arguments)
    try:
        with _terminable(), _plain_warnings(parsed):
            run: Callable[[argparse.Namespace], int] = parsed.run
            return run(parsed)
    except BrokenPipeError:
        # Whoever read our output has gone; leave nothing for the interpreter to flush into it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return SOME_FAILED
    except OSError as error:
        _complain(str(error))
        return SOME_FAILED
    except (ValueError, ImportError) as error:
        _complain(str(error))
        return USAGE
    except KeyboardInterrupt:
        _complain("interrupted; what was finished is intact")
        return INTERRUPTED
    except Exception as error:  # The last net, memory that ran out among it.
        if sys.flags.dev_mode:  # python -X dev shows developers where
            raise
        _complain(f"{type(error).__name__}: {' '.join(str(error).split()) or 'no reason given'}")
        return SOME_FAILED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="localize",
        description="Find things in pictures by words: relevance maps, boxes, and 'not here'.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_detect(commands)
    _add_demo(commands)
    _add_evaluate(commands)
    _add_bench(commands)
    return parser


def _add_detect(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    detect = commands.add_parser(
        "detect", help="find prompts in images; writes boxes as JSON and overlays"
    )
    detect.add_argument("images", nargs="+", metavar="IMAGE", help="files, folders or globs")
    detect.add_argument(
        "-p",
        "--prompt",
        dest="prompts",
        nargs="+",
        action="extend",
        required=True,
        metavar="PROMPT",
        help="what to look for, in words; one that begins with a dash: --prompt=-word",
    )
    detect.add_argument(
        "-o", "--output", default="localize-out", metavar="DIR", help="default: %(default)s"
    )
    detect.add_argument(
        "--heatmaps", action="store_true", help="also write a heatmap overlay for each prompt"
    )
    detect.add_argument(
        "--resume", action="store_true", help="skip images that an earlier run has finished"
    )
    _add_model(detect)
    _add_options(detect)
    detect.set_defaults(run=_detect)


def _add_demo(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    demo = commands.add_parser("demo", help="find a cat and a butterfly with the embedded model")
    demo.add_argument(
        "-o", "--output", default="localize-demo", metavar="DIR", help="default: %(default)s"
    )
    demo.add_argument("--quiet", action="store_true", help="print errors only")
    demo.set_defaults(run=_demo)


def _add_evaluate(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    evaluate = commands.add_parser(
        "evaluate", help="measure accuracy on generated scenes or on a COCO-layout folder"
    )
    source = evaluate.add_mutually_exclusive_group(required=True)
    source.add_argument("--scenes", type=int, metavar="N", help="measure on N generated scenes")
    source.add_argument(
        "--data", metavar="FOLDER", help="measure on images/ and instances.json in this folder"
    )
    evaluate.add_argument("--seed", type=int, default=0, help="seed of the first scene")
    evaluate.add_argument("--json", metavar="FILE", help="write the figures to this file")
    evaluate.add_argument(
        "--encoder",
        metavar="MODULE:OBJECT",
        help="any object of the Encoder protocol, in place of --model",
    )
    evaluate.add_argument(
        "--recipes", action="store_true", help="run the published recipes on the same images too"
    )
    _add_model(evaluate)
    _add_options(evaluate)
    evaluate.set_defaults(run=_evaluate)


def _add_bench(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    bench = commands.add_parser(
        "bench",
        help="measure speed beside the encoder alone, the published loop and the machine's limit",
        description="--model takes vit-b-32, vit-b-16 and vit-l-14 too: CLIPs with random weights.",
    )
    bench.add_argument("--photos", metavar="FOLDER", help="pictures to read; default: made for it")
    bench.add_argument(
        "--seconds", type=float, default=30.0, help="measure at least this long; default: 30"
    )
    bench.add_argument("--json", metavar="FILE", help="write the figures to this file")
    bench.add_argument("--quick", action="store_true", help="one rough round over few files")
    _add_model(bench)
    bench.set_defaults(run=_bench, model="vit-b-32")


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model",
        default="emoji",
        help="hub id or local folder of a CLIP-like checkpoint; default: %(default)s",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, mps; default: auto")
    parser.add_argument(
        "--dtype", default="auto", help="auto, float32, bfloat16, float16; default: auto"
    )
    parser.add_argument(
        "--compile",
        action="store_true",
        help="compile the image encoder first, which pays from about a hundred photos on",
    )
    parser.add_argument("--quiet", action="store_true", help="print errors only")


def _add_options(parser: argparse.ArgumentParser) -> None:
    defaults = Options()
    parser.add_argument(
        "--scales",
        type=float,
        nargs="*",
        default=defaults.scales,
        metavar="SIDE",
        help="window sides: up to 1 fractions of the short side, above 1 pixels; "
        f"default: {' '.join(map(str, defaults.scales))}",
    )
    parser.add_argument(
        "--stride",
        type=float,
        default=defaults.stride,
        help="longest step between windows as a fraction of their side, in (0, 1]; "
        "default: %(default)s",
    )
    parser.add_argument(
        "--budget",
        type=int,
        default=defaults.budget,
        metavar="N",
        help="encode at most N windows of a picture, those that show most; default: all",
    )
    parser.add_argument(
        "--threshold",
        type=float,
        default=defaults.threshold,
        help="least score of a reported box, in [0, 1]; default: %(default)s",
    )
    parser.add_argument(
        "--boxes",
        choices=["contrast", "threshold"],
        default=defaults.boxes,
        help="cut boxes out where they stand out from their surroundings, or at half the map's "
        "maximum; default: %(default)s",
    )
    parser.add_argument(
        "--negatives",
        nargs="+",
        default=defaults.negatives,
        metavar="WORD",
        help="words to score against, besides the built-in ones",
    )
    parser.add_argument(
        "--batch-size",
        type=int,
        default=defaults.batch_size,
        metavar="N",
        help="crops through the encoder at once; default: 32, on CUDA 256",
    )
    parser.add_argument(
        "--max-pixels",
        type=int,
        default=defaults.max_pixels,
        metavar="N",
        help="refuse larger pictures; default: %(default)s",
    )


def _options(parsed: argparse.Namespace) -> Options:
    """Options has one field a flag; lists from the command line become tuples."""
    values: dict[str, Any] = {}
    for field in fields(Options):
        value = getattr(parsed, field.name)
        values[field.name] = tuple(value) if isinstance(value, list) else value
    return Options(**values)


def _detect(parsed: argparse.Namespace) -> int:
    options = _options(parsed)
    from localize import files, images

    paths, problems = files.find_images(parsed.images, images.SUFFIXES)
    for problem in problems:
        _complain(problem)
    failures = len(problems)
    outputs = _outputs(_without_own(paths, parsed.output), Path(parsed.output))
    _refuse_to_overwrite(outputs, parsed)
    settings = {"model": parsed.model, "dtype": parsed.dtype, **asdict(options)}
    if parsed.resume:
        outputs = {
            path: output
            for path, output in outputs.items()
            if not _is_finished(path, output, parsed, settings)
        }
    if outputs:
        files.make_folder(parsed.output)
        for folder in {output.parent for output in outputs.values()}:
            files.remove_abandoned(folder)
        localizer = _localizer(parsed, options)
        failures += _detect_all(localizer, outputs, parsed, settings)
    return SOME_FAILED if failures else DONE


def _detect_all(
    localizer: Localizer,
    outputs: dict[Path, Path],
    parsed: argparse.Namespace,
    settings: dict[str, Any],
) -> int:
    """Localize every image and write its outputs; returns how many failed."""
    from localize import files

    failed: set[ImageSource] = set()

    def skip(path: ImageSource, error: Exception) -> None:
        _complain(str(error))
        failed.add(path)

    remaining = iter(outputs.items())
    results = localizer.locate_many(outputs, parsed.prompts, skip)
    with _progress(None, len(outputs), parsed.quiet) as progress:
        for result in results:
            path, output = next(pair for pair in remaining if pair[0] not in failed)
            if not parsed.quiet:
                for note in result.notes:
                    _complain(f"{display_name(path)}: {note}")
            try:
                _write_outputs(result, output, parsed, settings)
            except files.OutputError as error:
                if getattr(error.__cause__, "errno", None) in NO_ROOM:
                    raise
                skip(path, error)
                continue
            if not parsed.quiet:
                _say(_summary(result, display_name(path)))
            progress.update()
    return len(failed)


def _without_own(paths: Iterable[Path], folder: str) -> list[Path]:
    """The images that are not overlays of an earlier run into the same folder."""
    from localize import files

    own = os.path.join(os.path.realpath(folder), "")
    return [
        path
        for path in paths
        if not (
            path.name.endswith((OVERLAY, HEATMAP))
            and os.path.realpath(path).startswith(own)
            and files.is_written_here(path)
        )
    ]


def _refuse_to_overwrite(outputs: dict[Path, Path], parsed: argparse.Namespace) -> None:
    """Raise ValueError where an output has the path of an image that is to be read."""
    written = {
        os.path.realpath(file) for output in outputs.values() for file in _files(output, parsed)
    }
    for path in outputs:
        if os.path.realpath(path) in written:
            raise ValueError(
                f"{display_name(path)} is an image to be read, but an output of another one would "
                "take its name; choose another folder for --output"
            )


def _outputs(paths: Iterable[Path], folder: Path) -> dict[Path, Path]:
    """Where the outputs of each image go: its place below the inputs' common folder."""
    absolute = {path: Path(os.path.abspath(path)) for path in paths}
    if not absolute:
        return {}
    common = os.path.commonpath([path.parent for path in absolute.values()])
    return {path: folder / full.relative_to(common) for path, full in absolute.items()}


def _files(output: Path, parsed: argparse.Namespace) -> list[Path]:
    """What is written of one image: its overlay, the heatmap of each prompt, and at last its JSON.

    Where there is JSON, the image is finished.
    """
    prompts = enumerate(parsed.prompts if parsed.heatmaps else (), 1)
    endings = [f".{number}-{_slug(prompt)}{HEATMAP}" for number, prompt in prompts]
    return [_beside(output, ending) for ending in (OVERLAY, *endings, ".json")]


def _write_outputs(
    result: Localization, output: Path, parsed: argparse.Namespace, settings: dict[str, Any]
) -> None:
    from localize import files

    overlay, *heatmaps, facts = _files(output, parsed)
    files.write_image(overlay, result.boxes_overlay())
    for prompt, heatmap in zip(result.prompts, heatmaps, strict=False):
        files.write_image(heatmap, result.overlay(prompt))
    files.write_json(facts, {**result.to_dict(), "settings": settings})


def _beside(output: Path, ending: str) -> Path:
    return output.with_name(output.name + ending)


def _slug(prompt: str) -> str:
    """A short form of a prompt that is safe in a file's name."""
    safe = "".join(letter if letter.isalnum() else "-" for letter in prompt.lower())
    return safe[:40].strip("-") or "prompt"


def _is_finished(
    path: Path, output: Path, parsed: argparse.Namespace, settings: dict[str, Any]
) -> bool:
    """Whether an earlier run with the same settings has finished this image as it is now."""
    *overlays, facts = _files(output, parsed)
    try:
        with open(facts, encoding="utf-8") as file:
            found = json.load(file)
        newer = facts.stat().st_mtime >= path.stat().st_mtime
    except (OSError, ValueError, RecursionError):
        return False
    same = json.loads(json.dumps(settings))
    return (
        newer
        and all(map(os.path.isfile, overlays))
        and isinstance(found, dict)
        and found.get("prompts") == parsed.prompts
        and found.get("settings") == same
    )


def _demo(parsed: argparse.Namespace) -> int:
    from PIL import Image

    from localize import files
    from localize.evaluation.scenes import demo_scene
    from localize.localizer import Localizer

    folder = Path(parsed.output)
    image = demo_scene().image
    result = Localizer.from_pretrained("emoji").locate(image, DEMO_PROMPTS)
    files.write_image(folder / "scene.png", Image.fromarray(image))
    for prompt in DEMO_PROMPTS:
        files.write_image(folder / f"{_slug(prompt)}.png", result.overlay(prompt))
    files.write_image(folder / "boxes.png", result.boxes_overlay())
    result.save_json(folder / "scene.json")
    if not parsed.quiet:
        _say(_summary(result, "scene.png"))
        _say(f"The scene, its overlays and the JSON are in {display_name(folder)}.")
    return DONE


def _summary(result: Localization, name: str) -> str:
    lines = [name]
    for prompt, presence in zip(result.prompts, result.presence, strict=True):
        boxes = [box for box in result.boxes if box.label == prompt]
        places = "; ".join(
            f"({', '.join(str(round(edge)) for edge in box.xyxy)}) {box.score:.2f}" for box in boxes
        )
        lines.append(f"  {printable(prompt)}: {places or 'not here'} [presence {presence:.2f}]")
    return "\n".join(lines)


def _localizer(parsed: argparse.Namespace, options: Options) -> Localizer:
    from localize.localizer import Localizer

    return Localizer.from_pretrained(
        parsed.model,
        device=parsed.device,
        dtype=parsed.dtype,
        compile=parsed.compile,
        options=options,
    )


def _progress(items: Iterable[Any] | None, total: int | None, quiet: bool) -> Any:
    """A bar on stderr that vanishes when it is done and never shows where there is no terminal."""
    from tqdm import tqdm

    hidden = True if quiet or sys.stderr is None else None
    return tqdm(items, total=total, leave=False, unit="image", disable=hidden)


def _complain(message: str) -> None:
    if sys.stderr is not None:  # print would take stdout in its place
        print(f"localize: {message}", file=sys.stderr)


def _say(text: str) -> None:
    """Print to stdout, if there is one, what its encoding lacks as escapes."""
    if sys.stdout is None:
        return
    from tqdm import tqdm

    encoding = sys.stdout.encoding or "utf-8"
    tqdm.write(text.encode(encoding, "backslashreplace").decode(encoding), file=sys.stdout)
    sys.stdout.flush()


@contextmanager
def _terminable() -> Iterator[None]:
    """Let SIGTERM end what runs in here as Ctrl-C does, with its own sentence and exit code."""
    if threading.current_thread() is not threading.main_thread():  # Others may set no handlers.
        yield
        return
    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


def _terminate(signum: int, frame: FrameType | None) -> NoReturn:
    _complain("terminated; what was finished is intact")
    raise SystemExit(TERMINATED)


@contextmanager
def _plain_warnings(parsed: argparse.Namespace) -> Iterator[None]:
    """Show a warning as one sentence, without the line of code that gave it."""

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        if not parsed.quiet:
            _complain(str(message))

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield


def _evaluate(parsed: argparse.Namespace) -> int:
    options = _options(parsed)
    if parsed.scenes is not None and parsed.scenes < 1:
        raise ValueError(f"--scenes must be at least 1, not {parsed.scenes}")
    from localize import files
    from localize.evaluation import coco, evaluate
    from localize.evaluation.recipes import RECIPES
    from localize.localizer import Localizer

    if parsed.encoder:
        localizer = Localizer(evaluate.load_object(parsed.encoder), options)
    else:
        localizer = _localizer(parsed, options)
    if parsed.data:
        samples: Iterable[Sample] = coco.read_coco(parsed.data)
        source = {"data": Path(parsed.data).name}
    else:
        samples = evaluate.scene_samples(parsed.scenes, parsed.seed)
        source = {"scenes": parsed.scenes, "seed": parsed.seed}
    recipes = tuple(RECIPES) if parsed.recipes else ()
    progress = partial(_progress, quiet=parsed.quiet, total=parsed.scenes)
    report = evaluate.run(samples, localizer, recipes, source=source, progress=progress)
    if not parsed.quiet:
        _say(evaluate.format_table(report))
        if parsed.data:
            _say(f"\n{evaluate.format_per_class(report)}")
    if parsed.json:
        files.write_json(parsed.json, report)
    return DONE


def _bench(parsed: argparse.Namespace) -> int:
    from localize import files
    from localize.bench import bench, table

    report = bench(
        parsed.model,
        device=parsed.device,
        dtype=parsed.dtype,
        compile=parsed.compile,
        photos=parsed.photos,
        seconds=parsed.seconds,
        quick=parsed.quick,
    )
    if parsed.json:
        files.write_json(parsed.json, report)
    if not parsed.quiet:
        _say(table(report))
    return DONE


if __name__ == "__main__":
    sys.exit(main())
