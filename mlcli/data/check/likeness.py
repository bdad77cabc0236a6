"""Which images are the same, or nearly: by their pixels, and by 64-bit perceptual hashes confirmed on edges.

A hash alone finds any two ships on a horizon alike. So hashes (pHash: Zauner 2010, signs of the lowest cosine
frequencies) only propose pairs, by multi-index search (Norouzi, Punjani and Fleet, CVPR 2012): of eight bands of 8 bits
one must be equal, as it always is within 7 bits of 64 and mostly within 12. A pair counts if its edges agree, and agree
far better than those of other images do (the ratio test of Lowe 2004, section 7.1), so that a set of similar things, as
digits or X-rays, raises no alarm.
"""

from dataclasses import dataclass

import numpy as np

BITS, BANDS = 64, 8
RADII = (12, 8, 4, 1)
"""Bits two hashes may differ in; smaller ones where too many pairs are proposed. On CIFAR-10, 16 instead of 12 proposed
20 times as many pairs."""
MOST_PROPOSED = 4_000_000
NEAR = 0.8
"""Correlation of edges from which two images are taken for one picture: of 80 such pairs of CIFAR-10 looked at, drawn
at random between 0.75 and 0.8, 4 were not."""
SAME = 0.95
"""From here only scaling, compression or brightness differ."""
RATIO, SAME_RATIO = 0.55, 0.4
"""Distance within the pair, as a share of the distance to what is nearest otherwise."""
REFERENCES, RANK = 2000, 3
"""Images drawn at random for the ratio test; which nearest of them is what is nearest otherwise."""
SIDE = 16  # pixels at which edges are compared
LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R 601-2, as Pillow's
GREY_SPREAD = 6  # levels between the channels that JPEG makes of a grey picture


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
    grey = _grey(pixels)
    hashes, mirrored = perceptual_hashes(grey), perceptual_hashes(grey[:, :, ::-1])
    small = _small(pixels)
    straight = _confirmed(small, small, propose(hashes, hashes))
    flipped = _confirmed(small, small[..., ::-1], propose(hashes, mirrored))
    pairs = np.concatenate([straight[0], flipped[0]])
    score = np.concatenate([straight[1], flipped[1]])
    ratio = np.concatenate([straight[2], flipped[2]])
    turned = np.arange(len(pairs)) >= len(straight[0])
    order = np.argsort(-score, kind="stable")
    _, first = np.unique(pairs[order], axis=0, return_index=True)  # a symmetric picture is found both ways
    chosen = order[np.sort(first)]
    same = (score >= SAME) & (ratio <= SAME_RATIO)
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
    """The pairs whose edges agree, with their correlation and their distance as a share of the usual nearest one."""
    score = np.empty(len(pairs), dtype=np.float32)
    grey = (small.max(axis=1) - small.min(axis=1)).max(axis=(1, 2)) <= GREY_SPREAD
    for start in range(0, len(pairs), 2048):
        i, j = pairs[start : start + 2048].T
        one, other = small[i], others[j]
        mixed = grey[i] != grey[j]  # a grey copy of a picture in colour
        one[mixed], other[mixed] = _without_colour(one[mixed]), _without_colour(other[mixed])
        score[start : start + 2048] = (edges(one) * edges(other)).sum(axis=1)
    pairs, score = pairs[score >= NEAR], score[score >= NEAR]
    if not len(pairs):
        return pairs, score, score
    ratio = np.sqrt(np.maximum(0, 2 - 2 * score)) / np.maximum(_usual_distance(small, pairs), 1e-6)
    kept = ratio <= RATIO
    return pairs[kept], score[kept], ratio[kept]


def _usual_distance(small: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """For each pair, how near the nearest of random images are to one of the two, whichever has nearer ones: [P].

    The nearest but two, since there may be more of the same picture among them.
    """
    drawn = np.random.default_rng(0).permutation(len(small))[:REFERENCES]
    references = edges(small[drawn])
    involved, place = np.unique(pairs, return_inverse=True)
    nearest = np.empty(len(involved), dtype=np.float32)
    rank = min(RANK, len(drawn) - 1)
    for start in range(0, len(involved), 1024):
        chunk = involved[start : start + 1024]
        alike = edges(small[chunk]) @ references.T
        alike[chunk[:, None] == drawn[None]] = -1  # itself
        nearest[start : start + 1024] = np.partition(alike, -rank, axis=1)[:, -rank]
    distance = np.sqrt(np.maximum(0, 2 - 2 * nearest))
    return distance[place.reshape(-1, 2)].min(axis=1)


def edges(small: np.ndarray) -> np.ndarray:
    """Differences of neighbouring pixels of [B, 3, 16, 16] as vectors of length one: float32 [B, 1440]."""
    values = small.astype(np.float32)
    across, down = np.diff(values, axis=3), np.diff(values, axis=2)
    vectors = np.concatenate([across.reshape(len(values), -1), down.reshape(len(values), -1)], axis=1)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-6)


def _without_colour(small: np.ndarray) -> np.ndarray:
    return np.einsum("nchw,c->nhw", small, LUMA)[:, None]


def _grey(pixels: np.ndarray) -> np.ndarray:
    grey = np.empty((len(pixels), *pixels.shape[2:]), dtype=np.float32)
    for start in range(0, len(pixels), 4096):
        grey[start : start + 4096] = np.einsum("nchw,c->nhw", pixels[start : start + 4096], LUMA)
    return grey


def _small(pixels: np.ndarray) -> np.ndarray:
    """float16 [N, 3, 16, 16], means of 2x2 pixels."""
    small = np.empty((len(pixels), 3, SIDE, SIDE), dtype=np.float16)
    for start in range(0, len(pixels), 4096):
        chunk = pixels[start : start + 4096]
        small[start : start + 4096] = chunk.reshape(len(chunk), 3, SIDE, 2, SIDE, 2).mean((3, 5), dtype=np.float32)
    return small
