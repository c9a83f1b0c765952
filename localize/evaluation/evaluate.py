"""Runs a localizer, and the published recipes beside it, over pictures with known boxes.

Knows the two verbs, samples and metrics; must not know the command line or how answers come about.

AP looks at whole ranked lists, so every method is asked for all its boxes, however weak. Precision,
recall, cgF1 and false boxes look at those that a user sees: what the localizer reports at its own
threshold. The recipes have none: all of their boxes count.
"""

from __future__ import annotations

import importlib
import os
import platform
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from datetime import datetime, timezone
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from localize.encoders.protocol import Encoder
from localize.evaluation import metrics
from localize.evaluation.recipes import RECIPES
from localize.evaluation.samples import Answer, Array, Sample, Truth
from localize.evaluation.scenes import make_scene
from localize.evaluation.unknown import some_unknown
from localize.localizer import Localizer
from localize.result import Localization

REPORT_VERSION = 2
PACKAGES = ("clip-localize", "torch", "transformers", "numpy", "opencv-python", "pycocotools")

COLUMNS = {
    "AP50": "AP50",
    "AP30": "AP30",
    "pointing": "pointing",
    "CorLoc": "corloc50",
    "presence AUC": "presence_auc",
    "mIoU": "mIoU",
    "with background": "mIoU_background",
    "crops": "crops_per_image",
    "seconds": "seconds_per_image",
}

REPORTED_COLUMNS = {
    "precision50": "precision50",
    "recall50": "recall50",
    "cgF1_50": "cgF1_50",
    "precision30": "precision30",
    "recall30": "recall30",
    "cgF1_30": "cgF1_30",
    "false boxes": "false_boxes_per_absent_prompt",
    "unknown boxes": "false_boxes_per_unknown_prompt",
    "unknown presence": "presence_of_unknown_prompts",
}


class Method(Protocol):
    """Anything with the two verbs: our localizer, or a recipe."""

    def encode(self, image: Any) -> Any:
        """Put a picture's windows through the encoder; the answer has ``num_crops``."""
        ...

    def locate(self, encoded: Any, prompts: Any) -> Localization:
        """Say where each prompt is in an encoded picture."""
        ...


def scene_samples(count: int, seed: int = 0) -> Iterator[Sample]:
    """Scenes of seeds ``seed`` to ``seed + count - 1``, drawn as they are taken.

    Each is asked for its own names and for as many that are not in it: absent names, and for every
    second one of them, from the first on, a word that is no name of the vocabulary.
    """
    for number in range(seed, seed + count):
        scene = make_scene(number)
        unknown = some_unknown((len(scene.absent) + 1) // 2, number)
        truth = Truth(
            file=f"scene-{number}",
            labels=tuple(name for name, _ in scene.objects),
            xyxy=np.array([xyxy for _, xyxy in scene.objects], np.float64).reshape(-1, 4),
            iscrowd=np.zeros(len(scene.objects), bool),
            prompts=(*scene.names, *scene.absent[len(unknown) :], *unknown),
            unknown=unknown,
        )
        yield Sample(scene.image, truth, partial(np.asarray, scene.shown))


def own_names(samples: Iterable[Sample], seed: int = 0) -> Iterator[Sample]:
    """The same pictures, each asked for the names that are in it and as many that are not.

    What a user asks is mostly there, and figures of reported boxes are set beside those of scenes.
    The absent names are drawn by ``seed`` and the number of the picture; they are fewer where there
    are no more.
    """
    for number, sample in enumerate(samples):
        present = sample.truth.present()
        random = np.random.Generator(np.random.PCG64((seed, number)))
        absent = random.permutation(np.flatnonzero(~present))[: present.sum()]
        rows = np.sort(np.concatenate([np.flatnonzero(present), absent]))
        prompts = tuple(sample.truth.prompts[row] for row in rows)
        yield replace(sample, truth=replace(sample.truth, prompts=prompts))


def load_object(spec: str) -> Encoder:
    """The encoder that ``module:object`` names, for ``--encoder``.

    The module is looked for in the current folder first, then where Python finds modules; its code
    is run. A class is called without arguments; anything else is taken as it is.

    Raises ValueError, in one sentence, where there is no such thing or it is no `Encoder`.
    """
    module_name, _, name = spec.partition(":")
    if not module_name or not name:
        raise ValueError(f"an encoder is named module:object, as in my_encoder:Tower, not {spec!r}")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        module = importlib.import_module(module_name)
        found = getattr(module, name)
        encoder = found() if isinstance(found, type) else found
    except Exception as error:  # whatever a stranger's module does when it is run
        raise ValueError(f"{spec} cannot be loaded ({type(error).__name__}: {error})") from error
    if not isinstance(encoder, Encoder):
        wanted = [each for each in dir(Encoder) if not each.startswith("_")]
        missing = [each for each in wanted if not hasattr(encoder, each)]
        raise ValueError(f"{spec} is no encoder: it lacks {', '.join(missing)}")
    return encoder


def run(
    samples: Iterable[Sample],
    localizer: Localizer,
    recipes: Sequence[str] = (),
    *,
    source: Mapping[str, Any] | None = None,
    progress: Callable[[Iterable[Sample]], Iterable[Sample]] = iter,
) -> dict[str, Any]:
    """Measure a localizer, and recipes with the same encoder on the same pictures.

    samples: taken one at a time; pictures are not kept.
    recipes: any of ``RECIPES``: "pinecone", "clip-diy".
    source: where the samples come from (seed, folder), for the report.
    progress: wraps the samples, as tqdm does.

    Returns plain data for JSON: the localizer's figures (see `figures`) with its ``per_class``
    table, ``recipes`` with the same for each recipe, and ``config``. Everything but seconds, date
    and machine is the same at every run.

    Raises ValueError for an unknown recipe and where there is no sample; whatever reading a picture
    raises; ImportError without pycocotools.
    """
    unknown = [name for name in recipes if name not in RECIPES]
    if unknown:
        raise ValueError(f"recipes must be among {', '.join(RECIPES)}, not {', '.join(unknown)}")
    metrics.load_pycocotools()  # if it is missing, say so before an hour of work
    methods: dict[str, Method] = {"localize": localizer}
    for name in recipes:
        methods[name] = RECIPES[name](localizer.encoder)
    # For AP; recipes give all their boxes anyway.
    everything = Localizer(localizer.encoder, replace(localizer.options, threshold=0.0))
    truths: list[Truth] = []
    ranked: dict[str, list[Answer]] = {name: [] for name in methods}
    reported: dict[str, list[Answer]] = {name: [] for name in methods}
    for sample in progress(samples):
        truths.append(sample.truth)
        for name, method in methods.items():
            encoded, answer = ask(method, sample)
            reported[name].append(answer)
            if name == "localize":
                full = everything.locate(encoded, sample.truth.prompts)
                answer = answer_of(full, answer.crops, answer.encode_seconds, answer.locate_seconds)
                if sample.masks:
                    pixels = metrics.count_pixels(sample.masks(), sample.truth, _each_map(full))
                    answer = replace(answer, pixels=pixels)
            ranked[name].append(answer)
    if not truths:
        raise ValueError("there is nothing to evaluate: no picture was given")
    rows = {name: figures(truths, ranked[name], reported[name]) for name in methods}
    return {
        "version": REPORT_VERSION,
        **rows.pop("localize"),
        "recipes": rows,
        "config": _config(localizer, len(truths), source or {}),
    }


def ask(method: Method, sample: Sample) -> tuple[Any, Answer]:
    """A picture as one method encodes it, and the answer about it, timed in its two halves."""
    started = time.perf_counter()
    encoded = method.encode(sample.image)
    between = time.perf_counter()
    result = method.locate(encoded, sample.truth.prompts)
    done = time.perf_counter()
    return encoded, answer_of(result, encoded.num_crops, between - started, done - between)


def answer_of(
    result: Localization, crops: int, encode_seconds: float = 0.0, locate_seconds: float = 0.0
) -> Answer:
    """What the metrics read of a result; times are left at 0 where nobody asks for them."""
    return Answer(
        labels=tuple(box.label for box in result.boxes),
        scores=np.array([box.score for box in result.boxes], np.float64),
        xyxy=np.array([box.xyxy for box in result.boxes], np.float64).reshape(-1, 4),
        presence=result.presence.astype(np.float64),
        peaks=peaks(result),
        crops=crops,
        encode_seconds=encode_seconds,
        locate_seconds=locate_seconds,
    )


def _each_map(result: Localization) -> Iterator[npt.NDArray[np.float32]]:
    """The relevance of each prompt (H, W); one at a time, for all of them may be gigabytes."""
    for row, prompt in enumerate(result.prompts):
        yield replace(result, prompts=(prompt,), maps=result.maps[row : row + 1]).relevance[0]


def peaks(result: Localization) -> Array:
    """Where each map is highest, float64 (P, 2), x and y in pixels of the picture.

    Of several equal maxima the one nearest to their centre, so that a plateau is not judged by its
    corner.
    """
    to_picture = np.array([result.width, result.height]) / result.maps.shape[:0:-1]
    points = np.empty((len(result.maps), 2))
    for row, relevance in enumerate(result.maps):
        places = np.argwhere(relevance == relevance.max())[:, ::-1]
        distance = np.linalg.norm(places - places.mean(0), axis=1)
        points[row] = (places[distance.argmin()] + 0.5) * to_picture
    return points


def figures(
    truths: Sequence[Truth], answers: Sequence[Answer], reported: Sequence[Answer]
) -> dict[str, Any]:
    """All figures of one method; ``None`` where there was nothing to count.

    answers: with all boxes, however weak. reported: with those that a user sees.

    AP50, AP30: mean over the names present of COCO's average precision at IoU 0.5 and 0.3.
    pointing, corloc50: shares over all pairs of a picture and a name that is in it.
    presence_auc: over all pairs of a picture and a prompt.
    mIoU, mIoU_background: mean over the names present of `metrics.pixel_iou`, where pictures have
        masks; the second is over all pixels, and the background is a name.
    precision50, recall50, cgF1_50 and the same at IoU 0.3: see `metrics.reported_boxes`.
    false_boxes_per_absent_prompt: reported boxes per absent prompt asked; the same for unknown
        prompts, which are not among the absent ones here.
    presence_of_unknown_prompts: the median.
    seconds_per_image: median wall time; the first picture also pays for embedding the prompts.
    per_class: the same by name, with ``truths``, the number of its boxes, crowds left out.
    """
    ap50 = metrics.average_precision(truths, answers, 0.5)
    ap30 = metrics.average_precision(truths, answers, 0.3)
    pointing = metrics.pointing_hits(truths, answers)
    corloc = metrics.corloc_hits(truths, answers, 0.5)
    pixels = metrics.pixel_iou(truths, answers, background=False)
    names = sorted({name for truth in truths for name in truth.labels})
    halves = np.array([(answer.encode_seconds, answer.locate_seconds) for answer in answers])
    return {
        "AP50": _mean(ap50.values()),
        "AP30": _mean(ap30.values()),
        "pointing": metrics.share(pointing),
        "presence_auc": metrics.presence_auc(truths, answers),
        "corloc50": metrics.share(corloc),
        "mIoU": _mean(pixels.values()),
        "mIoU_background": _mean(metrics.pixel_iou(truths, answers, background=True).values()),
        "crops_per_image": float(np.mean([answer.crops for answer in answers])),
        **_seen(truths, reported, 0.5),
        **_seen(truths, reported, 0.3),
        "false_boxes_per_absent_prompt": metrics.false_boxes(truths, reported),
        "false_boxes_per_unknown_prompt": metrics.false_boxes(truths, reported, unknown=True),
        "presence_of_unknown_prompts": metrics.unknown_presence(truths, answers),
        "seconds_per_image": float(np.median(halves.sum(1))),
        "encode_seconds_per_image": float(np.median(halves[:, 0])),
        "locate_seconds_per_image": float(np.median(halves[:, 1])),
        "per_class": {
            name: {
                "truths": sum(len(truth.boxes_of(name, crowds=False)) for truth in truths),
                "AP50": ap50.get(name),
                "AP30": ap30.get(name),
                "pointing": _mean(pointing.get(name, ())),
                "corloc50": _mean(corloc.get(name, ())),
                "IoU": pixels.get(name),
            }
            for name in names
        },
    }


def format_table(report: Mapping[str, Any]) -> str:
    """The report's figures as text, one line a method: of ranked lists, and of reported boxes."""
    rows = {"localize": report, **report["recipes"]}
    tables = [
        _table(
            [header, *columns],
            [
                [name, *(_figure(row[key]) for key in columns.values())]
                for name, row in rows.items()
            ],
        )
        for header, columns in (("ranked", COLUMNS), ("reported", REPORTED_COLUMNS))
    ]
    return "\n\n".join(tables)


def format_per_class(report: Mapping[str, Any]) -> str:
    """The localizer's figures by name as text, one line a name."""
    header = ["name", "boxes", "AP50", "AP30", "pointing", "CorLoc"]
    keys = ("AP50", "AP30", "pointing", "corloc50")
    return _table(
        header,
        [
            [name, str(row["truths"]), *(_figure(row[key]) for key in keys)]
            for name, row in report["per_class"].items()
        ],
    )


def _seen(truths: Sequence[Truth], reported: Sequence[Answer], iou: float) -> dict[str, Any]:
    """The figures of reported boxes at one IoU, by the names that reports give them."""
    found, percent = metrics.reported_boxes(truths, reported, iou), round(100 * iou)
    return {
        f"precision{percent}": found["precision"],
        f"recall{percent}": found["recall"],
        f"cgF1_{percent}": found["cgF1"],
    }


def _mean(values: Iterable[float]) -> float | None:
    numbers = list(values)
    return float(np.mean(numbers)) if numbers else None


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _table(header: list[str], rows: list[list[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = []
    for first, *others in (header, *rows):
        cells = [first.ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
        lines.append("  ".join(cells))
    return "\n".join(lines)


def _config(localizer: Localizer, count: int, source: Mapping[str, Any]) -> dict[str, Any]:
    options = asdict(localizer.options)
    return {
        "model": localizer.model,
        "options": {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in options.items()
        },
        "images": count,
        **source,
        "versions": {"python": platform.python_version()}
        | {package: _version(package) for package in PACKAGES},
        "machine": {
            "system": platform.platform(),
            "processor": platform.processor() or platform.machine(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "device": str(getattr(localizer.encoder, "device", torch.device("cpu"))),
        },
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
