"""From the scores of windows and of their tokens to one relevance map a prompt.

Knows embeddings, grids of windows and their weights; must not know OpenCV or files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from localize.windows import Grid, window_profiles

Array = npt.NDArray[np.float32]

SYNONYM = 0.9
"""Of the pairs of words in a bank this share is less alike than a prompt and its near-synonyms."""

LEAST_BANK = 100
"""A bank of fewer words says too little about how alike its encoder finds unlike words."""

SAME = 0.95
"""Two texts whose cosine is above this are the same thing by another name, for every encoder."""

DIFFERENT = 0.6
"""Two texts whose cosine is below this are different things, for every encoder."""

TOKEN_POWER = 0.4
"""Weight of the tokens in the weighted geometric mean of a window's score and its tokens'."""

DISTINCT = 2.0
"""How sharply likeness above the picture's mean is told from likeness below it, a standard
deviation."""

LEAST_SPREAD = 1e-3
"""Standard deviation below which the cosines in a picture differ by little but rounding."""

LOGITS_AT_ONCE = 1 << 20
"""The most logits that `probabilities` makes before it sums them up: 4 MB, which caches hold."""

FAINT = 0.09
"""Presence below which nothing can be told from a prompt's map but that it is not there."""

MAP_SIDE = 160
"""Pixels along the long side of a relevance map: finer than windows and tokens can resolve."""


def synonym_limit(bank: torch.Tensor) -> float:
    """The cosine above which a word of the bank means nearly the same as a prompt.

    bank: unit-norm (K, D). How large the cosine of unlike texts is differs from encoder to encoder,
    so the limit is a quantile of the cosines between the bank's own words (at most 256 of them),
    between `DIFFERENT` and `SAME`.
    """
    if len(bank) < LEAST_BANK:
        return SAME
    sample = bank[:: -(-len(bank) // 256)]
    cosines = (sample @ sample.T)[~torch.eye(len(sample), dtype=torch.bool)]
    return float(np.clip(np.quantile(cosines.numpy(), SYNONYM), DIFFERENT, SAME))


def rivals(
    prompts: torch.Tensor,
    bank: torch.Tensor,
    own: torch.Tensor,
    limit: float,
    parts: torch.Tensor | None = None,
) -> torch.Tensor:
    """Which negatives count against which prompt: bool (P, K + L).

    prompts: unit-norm (P, D). bank: unit-norm (K, D), words that are always at hand. own: unit-norm
    (L, D), negatives that the user chose. limit: the bank's `synonym_limit`. parts: bool (K, K),
    for each word of the bank those that are parts of it; None: none are.

    A word of the bank that means nearly the same as the prompt would take its relevance away, and
    so would a part of such a word: a sleeve is a shirt as well as a person. What the user chose
    counts unless it is the prompt itself.
    """
    near = prompts @ bank.T >= limit
    beside = near if parts is None else near | ((near.float() @ parts.float()) > 0)
    return torch.cat([~beside, prompts @ own.T < SAME], dim=1)


def best_of(scores: torch.Tensor, owner: torch.Tensor, prompts: int) -> torch.Tensor:
    """The best of each prompt's alternatives: (..., P) of scores (..., Q).

    owner: int64 (Q,), ascending: the prompt, from 0 to `prompts` - 1, that each one belongs to.
    """
    if len(owner) == prompts:
        return scores
    best = scores.new_full((*scores.shape[:-1], prompts), -torch.inf)
    return best.scatter_reduce(-1, owner.expand(scores.shape), scores, "amax")


@dataclass(frozen=True, eq=False)
class Opposition:
    """How much R embeddings are like each of K negatives, whatever is asked of them.

    top: float32 (R, 1), the largest logit of each embedding. weights: float32 (R, K),
    exp(logit - top). It takes K floats an embedding: hundreds, as the embedding itself.
    """

    top: torch.Tensor
    weights: torch.Tensor

    @classmethod
    def of(
        cls, embeddings: torch.Tensor, negatives: torch.Tensor, logit_scale: float
    ) -> Opposition:
        """embeddings: unit-norm (..., D), R in all. negatives: unit-norm (K, D)."""
        rows = embeddings.reshape(-1, embeddings.shape[-1])
        top = rows.new_empty(len(rows), 1)
        weights = rows.new_empty(len(rows), len(negatives))
        at_once = _rows_at_once(negatives)
        for part, of_top, of_weights in zip(
            rows.split(at_once), top.split(at_once), weights.split(at_once), strict=True
        ):
            logits = logit_scale * part @ negatives.T
            of_top.copy_(logits.amax(-1, True))
            torch.exp(logits.sub_(of_top), out=of_weights)
        return cls(top, weights)

    @property
    def nbytes(self) -> int:
        """What it takes in memory."""
        return self.top.nbytes + self.weights.nbytes


def _rows_at_once(negatives: torch.Tensor) -> int:
    """Embeddings that are scored together. Their number is the same whatever is asked, and whether
    their opposition is known: so are the scores, to the last digit."""
    return max(1, LOGITS_AT_ONCE // len(negatives))


def probabilities(
    embeddings: torch.Tensor,
    prompts: torch.Tensor,
    negatives: torch.Tensor,
    against: torch.Tensor,
    logit_scale: float,
    temper: float = 1.0,
    opposition: Opposition | None = None,
    unlike: tuple[torch.Tensor, torch.Tensor] | None = None,
) -> torch.Tensor:
    """How much more each embedding is like the prompt than like anything else.

    embeddings: unit-norm (..., D). prompts: unit-norm (P, D). negatives: unit-norm (K, D).
    against: bool (P, K), the negatives of each prompt; see `rivals`. opposition: of the embeddings
    and these negatives, where it is known already. unlike: further negatives, unit-norm (L, D), and
    whose they are, bool (P, L).
    Returns float32 (..., P) in [0, 1]: for each prompt alone, the softmax of logit_scale * cosine
    over the prompt and its negatives, and of that the log-odds multiplied by `temper`. A softmax at
    a lower scale would do more than blunt: among hundreds of negatives that are nearly alike even a
    sure thing would be one of hundreds. So .5 stays .5, however many they are.
    """
    rows = embeddings.reshape(-1, embeddings.shape[-1])
    at_once = _rows_at_once(negatives)
    counted = against.T.float()
    parts = []
    for start in range(0, max(1, len(rows)), at_once):
        part = slice(start, start + at_once)
        if opposition is None:
            known = Opposition.of(rows[part], negatives, logit_scale)
        else:
            known = Opposition(opposition.top[part], opposition.weights[part])
        least = torch.finfo(torch.float32).tiny  # where a prompt has no rival that counts
        others = torch.log((known.weights @ counted).clamp_min(least)) + known.top
        if unlike is not None:
            own = Opposition.of(rows[part], unlike[0], logit_scale)
            more = torch.log(own.weights @ unlike[1].T.float()) + own.top
            others = torch.logaddexp(others, more)
        parts.append(torch.sigmoid(temper * (logit_scale * rows[part] @ prompts.T - others)))
    return torch.cat(parts).view(*embeddings.shape[:-1], len(prompts))


def negatives_weight(
    embeddings: torch.Tensor, negatives: torch.Tensor, logit_scale: float
) -> torch.Tensor:
    """What of the negatives is needed to score embeddings against all of them, float32 (N,).

    embeddings: unit-norm (N, D). negatives: unit-norm (K, D).
    It is w = log(sum(exp(logit_scale * cosine))); the probability of a prompt that counts all of
    them is sigmoid(logit_scale * cosine - w).
    """
    at_once = max(1, LOGITS_AT_ONCE // len(negatives))
    parts = embeddings.split(at_once)
    return torch.cat([torch.logsumexp(logit_scale * part @ negatives.T, -1) for part in parts])


@dataclass(frozen=True, eq=False)
class Contest:
    """P prompts, of Q alternatives in all, and what each is scored against.

    wanted: unit-norm (Q, D). owner: int64 (Q,), the prompt of each. negatives: unit-norm (K, D),
    the bank's first. against: bool (Q, K), the negatives of each; see `rivals`. prompts: P. unlike:
    further negatives (L, D) and whose they are, bool (Q, L), or None. sureness: float32 (Q,) in
    [0, 1], how far each can be trusted, or None: wholly.
    """

    wanted: torch.Tensor
    owner: torch.Tensor
    negatives: torch.Tensor
    against: torch.Tensor
    prompts: int
    unlike: tuple[torch.Tensor, torch.Tensor] | None = None
    sureness: torch.Tensor | None = None

    def scores(
        self,
        embeddings: torch.Tensor,
        logit_scale: float,
        temper: float = 1.0,
        opposition: Opposition | None = None,
    ) -> torch.Tensor:
        """How much embeddings (..., D) look like the prompts, (..., P); see `probabilities`.

        Each alternative is judged alone, as far as it can be trusted, and the best counts.
        """
        judged = probabilities(
            embeddings,
            self.wanted,
            self.negatives,
            self.against,
            logit_scale,
            temper,
            opposition,
            self.unlike,
        )
        if self.sureness is not None:
            judged = judged * self.sureness
        return best_of(judged, self.owner, self.prompts)


def presences(window_scores: torch.Tensor, token_scores: torch.Tensor | None) -> Array:
    """How sure it is that each prompt is in the picture at all, float32 (P,) in [0, 1].

    window_scores: (N, P), of all windows of all scales. token_scores: (N, th, tw, P) or None.
    The most convincing place of the most convincing window counts: a window that is mostly
    background says less of a small thing than the tokens on it do.
    """
    return _fused(window_scores, token_scores).amax((0, 1, 2)).numpy()


def map_size(width: int, height: int) -> tuple[int, int]:
    """(width, height) of the relevance maps of a picture of this size."""
    shrink = min(1.0, MAP_SIDE / max(width, height))
    return max(1, round(width * shrink)), max(1, round(height * shrink))


def relevance_maps(
    grids: Sequence[Grid], window_scores: torch.Tensor, token_scores: torch.Tensor | None
) -> Array:
    """One map a prompt, float32 (P, h, w) in [0, 1], of `map_size`.

    window_scores: (N, P). token_scores: (N, th, tw, P) or None.

    A window says what is there and its tokens say where in the window, so the score of a place is
    their weighted geometric mean. Within a scale overlapping windows are averaged, and then the
    scales with equal weight: their maximum was worse. The whole picture, squeezed out of shape, has
    no part in the map unless there is nothing else.
    """
    mean = _mean_over_scales(grids, _fused(window_scores, token_scores))
    return np.asarray(mean.clamp(0, 1).numpy(), np.float32)


def distinct(maps: Array, grids: Sequence[Grid], likeness: torch.Tensor) -> Array:
    """The maps times how much more a place is like each prompt than the picture is on the whole.

    maps: float32 (P, h, w) of `map_size`. likeness: (N, th, tw, P), the cosine of every token
    (1 x 1: of every window) with every prompt.
    Returns float32 (P, h, w), in the range of the maps.

    With z the standard score of a cosine among those of the picture, the factor is the mean of
    sigmoid(DISTINCT * z), squared, with a peak of 1. Negatives have no say in it: where a part of a
    thing goes by a name of its own (a sleeve is a shirt as well as a person), or where a place is
    like nothing at all, probabilities mislead and it does not.
    """
    spread, mean = torch.std_mean(likeness, dim=(0, 1, 2), correction=0)
    standard = (likeness - mean) / spread.clamp_min(LEAST_SPREAD)
    factors = _mean_over_scales(grids, torch.sigmoid(DISTINCT * standard)) ** 2
    return maps * np.asarray((factors / factors.amax((1, 2), keepdim=True)).numpy(), np.float32)


def with_peaks(maps: Array, peaks: Array) -> Array:
    """Each of the maps (P, h, w), in [0, 1], scaled so that it is highest at its peak, (P,)."""
    highest = maps.max(axis=(1, 2))
    scaled = maps / np.where(highest > 0, highest, 1)[:, None, None]
    return np.asarray(scaled * peaks[:, None, None], np.float32)


def _mean_over_scales(grids: Sequence[Grid], scores: torch.Tensor) -> torch.Tensor:
    """The overlap averages (P, h, w) of all grids but the whole picture's, averaged."""
    parts = zip(grids, torch.split(scores, [len(grid) for grid in grids]), strict=True)
    maps = [overlap_average(*part) for part in list(parts)[1 if len(grids) > 1 else 0 :]]
    return torch.stack(maps).mean(0)


def _fused(window_scores: torch.Tensor, token_scores: torch.Tensor | None) -> torch.Tensor:
    """What every cell of every window says: tokens^0.4 * window^0.6, (N, th, tw, P)."""
    scores = window_scores[:, None, None, :]
    if token_scores is None:
        return scores
    return token_scores**TOKEN_POWER * scores ** (1 - TOKEN_POWER)


def overlap_average(grid: Grid, scores: torch.Tensor) -> torch.Tensor:
    """The weighted mean, at every pixel of the map, of the scores of the windows that cover it.

    scores: (N, th, tw, P), the scores of the cells of each window (1 x 1: of the window itself).
    Returns (P, h, w). Windows lie on a grid and a window's weight is a product of a profile along
    x and one along y, so with S the scores laid out by rows and columns of cells the mean is
    (Gy S Gx^T) / (gy gx^T), where gy and gx are the row sums of Gy and Gx.
    """
    width, height = map_size(*grid.picture)
    cells_y, cells_x, prompts = scores.shape[1:]
    rows, columns = len(grid.ys), len(grid.xs)
    gy = _axis_weights(grid.ys, grid.side, cells_y, grid.level[1], height)
    gx = _axis_weights(grid.xs, grid.side, cells_x, grid.level[0], width)
    gy, gx = gy / gy.sum(1, keepdim=True), gx / gx.sum(1, keepdim=True)
    laid_out = scores.reshape(rows, columns, cells_y, cells_x, prompts).permute(4, 0, 2, 1, 3)
    return gy @ laid_out.reshape(prompts, rows * cells_y, columns * cells_x) @ gx.T


def _axis_weights(
    starts: Sequence[int], side: int, cells: int, level: int, length: int
) -> torch.Tensor:
    """Weight of every cell of every window at every pixel of one axis: (length, windows * cells).

    Inside a window's profile (see `window_profiles`) its cells are interpolated linearly, and cells
    beyond the border do not exist.
    """
    pixels = (torch.arange(length) + 0.5) * (level / length)
    inside = (pixels[:, None] - torch.tensor(starts)) / side
    profile = torch.from_numpy(window_profiles(starts, side, level, length).T).float()
    centres = (torch.arange(cells) + 0.5) / cells
    place = inside.clamp(0.5 / cells, 1 - 0.5 / cells)
    hats = (1 - cells * (place[..., None] - centres).abs()).clamp_min(0)
    return (profile[..., None] * hats).flatten(1)
