"""Images that occur more than once: within a split, in two splits (then the score is too good), with different labels.

Equal ones are found by their pixels, similar ones by 64-bit perceptual hashes, confirmed on edges. A hash alone finds
any two ships on a horizon alike. So hashes (pHash: Zauner 2010, signs of the lowest cosine frequencies) only propose
pairs, by multi-index search (Norouzi, Punjani and Fleet, CVPR 2012): of eight bands of 8 bits one must be equal, as it
always is within 7 bits of 64 and mostly within 12. A pair counts if its edges agree, and agree far better than those of
other images do (the ratio test of Lowe 2004, section 7.1). In a set of similar things, as digits or X-rays, some pairs
pass that by chance: of n points spread evenly in m dimensions, k of which lie within a radius r of each, about
n * k * (d / r)^m / 2 pairs are as near as d. Where more than that are to be expected, a pair proves nothing.
"""

import hashlib
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from mlcli.data.places import Root
from mlcli.data.scan import GREY_SPREAD, SIDE, Collection, FilePictures, Scan, blank_images, scan
from mlcli.errors import DataError

EQUAL, SAME, NEAR, MIRRORED = "equal", "saved anew", "nearly equal", "mirrored"
MOST_KINDS = 8
"""Splits and labels that one image is paired across; a picture that stands for "no image" may be in all classes."""
BITS, BANDS = 64, 8
RADII = (12, 8, 4, 1)
"""Bits two hashes may differ in; smaller ones where too many pairs are proposed. On CIFAR-10, 16 instead of 12 proposed
20 times as many pairs."""
MOST_PROPOSED = 4_000_000
NEAR_SCORE = 0.8
"""Correlation of edges from which two images are taken for one picture: of 80 such pairs of CIFAR-10 looked at, drawn
at random between 0.75 and 0.8, 4 were not."""
SAME_SCORE = 0.95
"""Score from which pictures differ only in scaling, compression or brightness."""
RATIO, SAME_RATIO = 0.55, 0.4
"""Distance within the pair, as a share of the distance to what is nearest otherwise."""
NEAR_BY_CHANCE, SAME_BY_CHANCE = 1.0, 0.02
"""Pairs of different pictures in the whole set that may be as near by chance."""
RANK, LEAST_RANK = 8, 3
"""Which nearest of all images is what is nearest otherwise: there may be some more copies of a picture."""
FIRST_REFERENCES, MOST_COMPARED = 2000, 50_000_000
"""Images drawn at random for a first ratio test; comparisons of two images in the second, which take about 5 s."""
EDGE_SIDE = 16  # pixels at which edges are compared
LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R 601-2, as Pillow's


@dataclass(frozen=True)
class Pair:
    """Two images (positions in the data set) that show the same.

    likeness: EQUAL in every decoded pixel; SAME but for scaling, compression or brightness; NEAR; MIRRORED.
    score: correlation of their edges; 1 if equal.
    """

    first: int
    second: int
    likeness: str
    score: float


def find_pairs(collection: Collection, looked: Scan) -> list[Pair]:
    """All of them, equal ones first."""
    rows = np.flatnonzero(looked.ok & ~blank_images(looked))
    pixels = looked.pixels[rows]
    sizes = np.array([(look.width, look.height) for look in (looked.looks[row] for row in rows.tolist()) if look])
    if len(rows) < 2:
        return []
    pairs, repeated = [], np.zeros(len(rows), dtype=bool)
    for group in equal_groups(pixels, sizes):
        groups = [group]
        if (sizes[group[0]] > SIDE).any():  # 32x32 of a large image are a hint only: divided by whole pixels
            by_content: dict[bytes, list[int]] = {}
            for member in group.tolist():
                with suppress(DataError):  # gone since it was read
                    whole = collection.pictures.picture(int(looked.read[rows[member]])).tobytes()
                    by_content.setdefault(hashlib.blake2b(whole).digest(), []).append(member)
            groups = [np.array(members) for members in by_content.values() if len(members) > 1]
        for members in groups:
            pairs += _paired(collection, looked.read[rows[members]])
            repeated[members[1:]] = True
    positions = looked.read[rows[~repeated]]
    if len(positions) < 2:
        return pairs
    near = near_pairs(pixels[~repeated])
    kinds = np.where(near.mirrored, MIRRORED, np.where(near.same, SAME, NEAR)).tolist()
    return pairs + [
        Pair(int(positions[i]), int(positions[j]), kind, score)
        for (i, j), kind, score in zip(near.pairs.tolist(), kinds, near.score.tolist(), strict=True)
    ]


def same_pictures(root: Root, paths: np.ndarray) -> np.ndarray:
    """Return the group of each image file, int64 [N]: those that are equal or one saved anew have the same number.

    Every file is read, which takes about 0.5 ms for one of 32x32 pixels.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    pictures, zeros = FilePictures(root, paths), np.zeros(len(paths), dtype=np.int64)
    collection = Collection(pictures, zeros, (), zeros.astype(np.int8), ("train",))
    found = find_pairs(collection, scan(pictures, everything=True))
    same = np.array([(pair.first, pair.second) for pair in found if pair.likeness in (EQUAL, SAME)], dtype=np.int64)
    ends = same.reshape(-1, 2).T
    graph = coo_array((np.ones(len(ends[0]), dtype=bool), (ends[0], ends[1])), shape=(len(paths), len(paths)))
    return connected_components(graph, directed=False)[1].astype(np.int64)


def _paired(collection: Collection, positions: np.ndarray) -> list[Pair]:
    """Each image with the first of its own split and label, and with the first of each other, from train on."""
    order = np.lexsort((positions, collection.split_of[positions]))
    firsts: dict[tuple[int, int], int] = {}
    pairs = []
    for position in positions[order].tolist():
        kind = (int(collection.split_of[position]), int(collection.labels[position]))
        others = [first for other, first in firsts.items() if other != kind][:MOST_KINDS]
        own = [firsts[kind]] if kind in firsts else []
        pairs += [Pair(partner, position, EQUAL, 1.0) for partner in own + others]
        firsts.setdefault(kind, position)
    return pairs


@dataclass(frozen=True, eq=False)
class Likeness:
    """Pairs of positions (i < j) in what was compared.

    pairs: int64 [P, 2]. score: float [P], correlation of edges, best first. mirrored, same: bool [P].
    """

    pairs: np.ndarray
    score: np.ndarray
    mirrored: np.ndarray
    same: np.ndarray


def equal_groups(pixels: np.ndarray, sizes: np.ndarray) -> list[np.ndarray]:
    """Groups of two and more that have the same 32x32 pixels and the same original size; positions ascending."""
    rows = np.ascontiguousarray(pixels.reshape(len(pixels), -1))
    rows = np.concatenate([rows, np.ascontiguousarray(sizes.astype(np.int64)).view(np.uint8)], axis=1)
    keys = np.ascontiguousarray(rows).view(np.dtype((np.void, rows.shape[1]))).ravel()
    _, inverse, counts = np.unique(keys, return_inverse=True, return_counts=True)
    order = np.argsort(inverse, kind="stable")
    ends = np.cumsum(counts)
    return sorted(
        (order[end - count : end] for end, count in zip(ends, counts, strict=True) if count > 1), key=lambda g: g[0]
    )


def near_pairs(pixels: np.ndarray) -> Likeness:
    """Pairs that show one picture: uint8 [N, 3, 32, 32], without equal ones and without blank ones."""
    grey = np.empty((len(pixels), *pixels.shape[2:]), dtype=np.float32)
    small = np.empty((len(pixels), 3, EDGE_SIDE, EDGE_SIDE), dtype=np.float16)  # means of 2x2 pixels
    for start in range(0, len(pixels), 4096):
        here, chunk = slice(start, start + 4096), pixels[start : start + 4096]
        grey[here] = np.einsum("nchw,c->nhw", chunk, LUMA)
        small[here] = chunk.reshape(len(chunk), 3, EDGE_SIDE, 2, EDGE_SIDE, 2).mean((3, 5), dtype=np.float32)
    hashes, mirrored = perceptual_hashes(grey), perceptual_hashes(grey[:, :, ::-1])
    straight = _confirmed(small, small, propose(hashes, hashes))
    flipped = _confirmed(small, small[..., ::-1], propose(hashes, mirrored))
    pairs = np.concatenate([straight[0], flipped[0]])
    score = np.concatenate([straight[1], flipped[1]])
    same = np.concatenate([straight[2], flipped[2]])
    turned = np.arange(len(pairs)) >= len(straight[0])
    order = np.argsort(-score, kind="stable")
    _, first = np.unique(pairs[order], axis=0, return_index=True)  # a symmetric picture is found both ways
    chosen = order[np.sort(first)]
    return Likeness(pairs[chosen], score[chosen], turned[chosen], same[chosen])


def perceptual_hashes(grey: np.ndarray) -> np.ndarray:
    """uint64 [N] of float [N, 32, 32]: which of the 63 lowest cosine frequencies are above their median."""
    from scipy.fft import dctn

    hashes = np.empty(len(grey), dtype=np.uint64)
    for start in range(0, len(grey), 4096):
        waves = dctn(grey[start : start + 4096], axes=(1, 2), norm="ortho")[:, :8, :8].reshape(-1, BITS)
        waves[:, 0] = -np.inf  # mean brightness is no feature
        above = waves > np.median(waves[:, 1:], axis=1, keepdims=True)
        hashes[start : start + 4096] = np.packbits(above, axis=1).view(">u8").ravel()
    return hashes


def propose(hashes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Pairs i < j, int64 [P, 2], whose hashes[i] and others[j] are within a radius and share one of eight bytes."""
    for radius in RADII:
        pairs = _within(hashes, others, radius)
        if pairs is not None:
            return pairs
    return np.zeros((0, 2), dtype=np.int64)  # millions of images as good as equal: nothing stands out


def _within(hashes: np.ndarray, others: np.ndarray, radius: int) -> np.ndarray | None:
    """None if there are too many."""
    found: list[np.ndarray] = []
    proposed = 0
    for band in range(BANDS):
        rows, starts = _buckets(hashes, band)
        columns, ends = _buckets(others, band)
        for value in range(256):
            here, there = rows[starts[value] : starts[value + 1]], columns[ends[value] : ends[value + 1]]
            for block in np.array_split(here, -(-len(here) // 512)) if len(here) and len(there) else ():
                i, j = np.nonzero(np.bitwise_count(hashes[block, None] ^ others[None, there]) <= radius)
                pairs = np.stack([block[i], there[j]], axis=1)
                pairs = pairs[pairs[:, 0] < pairs[:, 1]]
                found.append(pairs)
                proposed += len(pairs)
                if proposed > MOST_PROPOSED:
                    return None
    together = np.concatenate(found) if found else np.zeros((0, 2), dtype=np.int64)
    keys = np.unique(together[:, 0] * np.int64(len(hashes)) + together[:, 1])
    return np.stack([keys // len(hashes), keys % len(hashes)], axis=1)


def _buckets(hashes: np.ndarray, band: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions sorted by one byte of the hashes, and where each of its 256 values begins."""
    values = ((hashes >> np.uint64(8 * band)) & np.uint64(255)).astype(np.int64)
    order = np.argsort(values, kind="stable")
    return order, np.searchsorted(values[order], np.arange(257))


def _confirmed(small: np.ndarray, others: np.ndarray, pairs: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The pairs whose edges agree, with their correlation and whether they are the same picture."""
    score = np.empty(len(pairs), dtype=np.float32)
    grey = (small.max(axis=1) - small.min(axis=1)).max(axis=(1, 2)) <= GREY_SPREAD
    for start in range(0, len(pairs), 2048):
        i, j = pairs[start : start + 2048].T
        one, other = small[i], others[j]
        mixed = grey[i] != grey[j]  # a grey copy of a picture in colour
        for side in (one, other):
            side[mixed] = np.einsum("nchw,c->nhw", side[mixed], LUMA)[:, None]
        score[start : start + 2048] = (edges(one) * edges(other)).sum(axis=1)
    pairs, score = pairs[score >= NEAR_SCORE], score[score >= NEAR_SCORE]
    if not len(pairs):
        return pairs, score, score > 1
    # Few of very many references first: of digits or X-rays, they tell most pairs to be no copies.
    for references in (FIRST_REFERENCES, max(FIRST_REFERENCES, MOST_COMPARED // len(np.unique(pairs)))):
        distance = np.sqrt(np.maximum(0, 2 - 2 * score))
        ratio, by_chance = _compared(small, pairs, distance, references)
        kept = (ratio <= RATIO) & (by_chance <= NEAR_BY_CHANCE)
        pairs, score, same = pairs[kept], score[kept], (ratio <= SAME_RATIO) & (by_chance <= SAME_BY_CHANCE)
        if not len(pairs):
            break
    return pairs, score, same[kept] & (score >= SAME_SCORE)


def _compared(
    small: np.ndarray, pairs: np.ndarray, distance: np.ndarray, references: int
) -> tuple[np.ndarray, np.ndarray]:
    """Compare the distance of each pair with how near others are to one of the two, whichever has nearer ones.

    references: how many others are looked at, drawn at random where there are more.
    Returns the distances' ratio, and how many pairs in the whole set are to be expected as near: float [P] both.
    """
    drawn = np.random.default_rng(0).permutation(len(small))[:references]
    rank = min(max(LEAST_RANK, RANK * len(drawn) // len(small)), len(drawn) - 1)
    involved, place = np.unique(pairs, return_inverse=True)
    asked = edges(small[involved])
    nearest = np.full((len(involved), 3 * rank), -1, dtype=np.float32)  # of those looked at so far
    for start in range(0, len(drawn), 1024):
        chunk = drawn[start : start + 1024]
        alike = asked @ edges(small[chunk]).T
        alike[involved[:, None] == chunk[None]] = -1  # itself
        nearest = np.partition(np.concatenate([nearest, alike], axis=1), -3 * rank, axis=1)[:, -3 * rank :]
    radius, wider = np.sqrt(np.maximum(1e-6, 2 - 2 * np.sort(nearest)[:, [-rank, 0]])).T
    # In m dimensions log(wider / radius) is sum(1 / j) / m on average, j from rank to 3 * rank (Levina & Bickel 2005).
    spread = np.log(wider / radius)[place.reshape(-1, 2)].mean(axis=1)
    dimensions = (1 / np.arange(rank, 3 * rank)).sum() / np.maximum(spread, 1e-3)
    ratio = distance / radius[place.reshape(-1, 2)].min(axis=1)
    inside = rank * len(small) / len(drawn)
    by_chance = len(small) * inside * ratio**dimensions / 2
    return ratio, by_chance if len(drawn) > 3 * rank else np.zeros(len(pairs))


def edges(small: np.ndarray) -> np.ndarray:
    """Differences of neighbouring pixels of [B, 3, 16, 16] as vectors of length one: float32 [B, 1440]."""
    values = small.astype(np.float32)
    across, down = np.diff(values, axis=3), np.diff(values, axis=2)
    vectors = np.concatenate([across.reshape(len(values), -1), down.reshape(len(values), -1)], axis=1)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-6)
