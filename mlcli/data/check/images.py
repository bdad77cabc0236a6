"""Findings about single images: damage, rare modes, rotation, sizes, blank pictures, a colour that others lack."""

import os
from collections import Counter
from collections.abc import Callable

import numpy as np

from mlcli.data.config import ImageFiles
from mlcli.data.decode import ENDINGS
from mlcli.data.finding import Finding, Severity
from mlcli.data.scan import GREY_SPREAD, Collection, Look, Scan, blank_images
from mlcli.text import plural, share

TINY = 16
"""Pixels of the shorter side below which little can be seen; digits of 8x8 are no oddity where all are that small."""
HUGE = 2**24
"""Pixels of a photograph that takes 0.2 s to decode."""
EXTREME = 3.0
"""Longer by shorter side from which cutting to a square loses two thirds."""
MOSTLY = 0.9  # share of one size from which it is named instead of percentiles
RARE = 0.2
"""Share up to which something that differs from the others is pointed out."""


def image_findings(collection: Collection, scan: Scan, config: ImageFiles | None) -> list[Finding]:
    """config: how files are brought to one size; None for images in memory and for detection."""
    blank = np.flatnonzero(blank_images(scan) & scan.ok).tolist()
    found = _unreadable(collection, scan, config)
    if blank:
        what = f"{plural(len(blank), 'image is', 'images are')} blank: one colour from edge to edge"
        places = tuple(f"{collection.name(int(scan.read[at]))} (level {scan.pixels[at].mean():.0f})" for at in blank)
        found.append(Finding("warning", "blank", what, places, "remove them: there is nothing to learn from"))
    return [
        *found,
        *_modes(collection, scan),
        *_extents(collection, scan, config),
        *_colours(collection, scan),
    ]


def _unreadable(collection: Collection, scan: Scan, config: ImageFiles | None) -> list[Finding]:
    if not scan.faults:
        return []
    what = f"{plural(len(scan.faults), 'image')} cannot be read"
    places = tuple(f"{collection.name(index)} ({why})" for index, why in scan.faults.items())
    fix = "replace or remove them"
    if config is not None and config.bad_images == "skip":
        if len(scan.faults) <= config.max_bad_share * len(scan.read):
            return [Finding("warning", "unreadable", f"{what} and will be left out", places, fix)]
    elif config is not None:
        fix += "; data.bad_images=skip leaves them out"
    return [Finding("error", "unreadable", what, places, fix)]


def _modes(collection: Collection, scan: Scan) -> list[Finding]:
    """Kinds of files, by their headers. Reading copes with all of them (data/decode.py)."""

    def misnamed(look: Look, name: str) -> bool:
        ending = os.path.splitext(name)[1].lower()
        return bool(ending and look.format) and ending not in ENDINGS.get(look.format.replace("MPO", "JPEG"), (ending,))

    kinds: list[tuple[Severity, str, Callable[[Look, str], bool], str, str, str]] = [
        ("warning", "animation", lambda look, name: look.frames > 1, " ({look.frames} frames)",
         "more than one frame or page, of which the first alone is read", "extract the frames that are wanted"),
        ("note", "extension-lies", misnamed, " (is {look.format})",
         "a format other than the extension's; they are read all the same", "rename them: other programs need it"),
        ("note", "rotated", lambda look, name: look.rotated, "",
         "an EXIF orientation; it is applied when read, which other programs may not do",
         "boxes and masks must refer to the upright image"),
        ("note", "alpha", lambda look, name: look.alpha, "", "transparent parts, which become white", ""),
        ("note", "16-bit", lambda look, name: look.mode.startswith("I") or look.mode == "F", " ({look.mode})",
         "more than 8 bits a pixel, which are scaled to 8", ""),
        ("note", "cmyk", lambda look, name: look.mode in ("CMYK", "LAB", "YCCK"), " ({look.mode})",
         "colours in CMYK (for print) or LAB; they are converted without a profile", "save them as RGB"),
    ]  # fmt: skip
    looks = [(look, collection.name(int(at))) for at, look in zip(scan.read, scan.looks, strict=True) if look]
    found = []
    for severity, kind, is_so, detail, text, fix in kinds:
        if places := tuple(name + detail.format(look=look) for look, name in looks if is_so(look, name)):
            what = f"{plural(len(places), 'image has', 'images have')} {text}"
            found.append(Finding(severity, kind, what, places, fix))
    return found


def _extents(collection: Collection, scan: Scan, config: ImageFiles | None) -> list[Finding]:
    at, sizes = sizes_read(scan)
    if not len(at) or config is None:
        return []
    shorter, longer = sizes.min(axis=1), sizes.max(axis=1)

    def places(chosen: np.ndarray) -> tuple[str, ...]:
        return tuple(
            f"{collection.name(int(scan.read[at[row]]))} ({sizes[row, 0]}x{sizes[row, 1]})"
            for row in np.flatnonzero(chosen)
        )

    found = []
    tiny = (shorter < TINY) & (shorter < np.median(shorter) / 2)
    if tiny.any():
        what = f"{plural(int(tiny.sum()), 'image is', 'images are')} smaller than {TINY} pixels, the others are not"
        found.append(Finding("warning", "tiny", what, places(tiny), "remove those that cannot be recognised"))
    huge = sizes.prod(axis=1, dtype=np.int64) > HUGE
    if huge.any():
        what = f"{plural(int(huge.sum()), 'image has', 'images have')} more than {HUGE / 2**20:.0f} million pixels"
        found.append(Finding("note", "huge", what, places(huge), "save them smaller once: every epoch reads them"))
    extreme = longer > EXTREME * shorter
    if extreme.any() and extreme.mean() < RARE:
        worst = float((longer / shorter).max())
        effect = {
            "crop": f"data.fit: crop keeps 1/{worst:.0f} of the longest",
            "stretch": "data.fit: stretch deforms them",
            "pad": "data.fit: pad leaves them small between grey bars",
        }[config.fit]
        what = (f"{plural(int(extreme.sum()), 'image is', 'images are')} more than {EXTREME:g} times as long as wide; "
                f"{effect}")  # fmt: skip
        fix = "cut or remove them" + ("; data.fit=pad keeps all of each" if config.fit == "crop" else "")
        found.append(Finding("warning", "extreme-aspect", what, places(extreme), fix))
    return found


def sizes_read(scan: Scan) -> tuple[np.ndarray, np.ndarray]:
    """Positions (in what was read) of headers that could be read, and their width and height: int64 [K], [K, 2]."""
    at = [number for number, look in enumerate(scan.looks) if look is not None]
    sizes = [(look.width, look.height) for look in scan.looks if look is not None]
    return np.array(at, dtype=np.int64), np.array(sizes, dtype=np.int64).reshape(-1, 2)


def _colours(collection: Collection, scan: Scan) -> list[Finding]:
    """Grey images among colour ones or the reverse, however they are stored."""
    seen = scan.ok & ~blank_images(scan)
    grey = np.zeros(len(seen), dtype=bool)
    for start in range(0, len(grey), 4096):
        chunk = scan.pixels[start : start + 4096].astype(np.int16)
        grey[start : start + 4096] = (chunk.max(axis=1) - chunk.min(axis=1)).max(axis=(1, 2)) <= GREY_SPREAD
    few, many, total = int((grey & seen).sum()), int((seen & ~grey).sum()), int(seen.sum())
    if 0 < few <= RARE * total:
        what = f"{plural(few, 'image is', 'images are')} grey ({share(few, total)}) in a set of colour images"
        places, fix = collection.names(scan.read[grey & seen]), "fine where all classes have some of them"
        return [Finding("note", "grey-among-colour", what, places, fix)]
    if 0 < many <= RARE * total:
        what = f"{plural(many, 'image has', 'images have')} colour ({share(many, total)}) in a set of grey images"
        places, fix = collection.names(scan.read[seen & ~grey]), "data.channels=1 makes all of them grey"
        return [Finding("note", "colour-among-grey", what, places, fix)]
    return []


def size_facts(scan: Scan) -> tuple[str, dict[str, object]]:
    """A line about the sizes, formats and modes found, and the same as plain data."""
    _, sizes = sizes_read(scan)
    if not len(sizes):
        return "nothing could be read", {}
    counts = Counter(map(tuple, sizes.tolist()))
    formats = Counter(look.format for look in scan.looks if look and look.format)
    modes = Counter(look.mode for look in scan.looks if look)
    aspect = sizes[:, 0] / sizes[:, 1]
    (width, height), most = counts.most_common(1)[0]
    if len(counts) == 1:
        text = f"all {width}x{height}"
    elif most >= MOSTLY * len(sizes):
        text = f"{most:,} of {len(sizes):,} are {width}x{height}, the others of {plural(len(counts) - 1, 'other size')}"
    else:
        low, middle, high = np.percentile(sizes.min(axis=1), [5, 50, 95]).round().astype(int)
        flat, even, tall = np.percentile(aspect, [5, 50, 95])
        text = (f"{len(counts):,} different sizes, shorter side {low} to {high} (median {middle}), "
                f"width/height {flat:.2f} to {tall:.2f} (median {even:.2f})")  # fmt: skip
    for kinds in (formats, modes):
        if kinds:
            text += " · " + ", ".join(kind if len(kinds) == 1 else f"{kind} {n:,}" for kind, n in kinds.most_common(4))
    figures = {
        "sizes": [[*size, count] for size, count in counts.most_common(20)],
        "different_sizes": len(counts),
        "shorter_side_percentiles": np.percentile(sizes.min(axis=1), [0, 5, 25, 50, 75, 95, 100]).tolist(),
        "aspect_percentiles": np.percentile(aspect, [0, 5, 25, 50, 75, 95, 100]).round(4).tolist(),
        "formats": dict(formats),
        "modes": dict(modes),
    }
    return text, figures


def suggested_size(scan: Scan) -> int | None:
    """A data.image_size for images of different sizes: a multiple of 32 near the 25th percentile of the shorter sides,
    so that few are enlarged; 224 at most, which is what pretrained weights know. None if all are of one size."""
    _, sizes = sizes_read(scan)
    if not len(sizes) or len(np.unique(sizes, axis=0)) == 1:
        return None
    quarter = float(np.percentile(sizes.min(axis=1), 25))
    return int(min(224, max(32, 32 * round(quarter / 32))))


def size_findings(scan: Scan, config: ImageFiles) -> list[Finding]:
    """Suggest data.image_size, and report a value that enlarges most images."""
    _, sizes = sizes_read(scan)
    suggestion = suggested_size(scan)
    if config.image_size is None:
        if suggestion is None:
            return []
        counts = Counter(f"{width}x{height}" for width, height in sizes.tolist())
        odd = tuple(f"{size} ({count:,})" for size, count in counts.most_common())
        what = f"images are of {len(counts):,} different sizes, and data.image_size is not set"
        return [Finding("error", "different-sizes", what, odd, f"data.image_size={suggestion}")]
    wanted = config.image_size if isinstance(config.image_size, int) else max(config.image_size)
    smaller = sizes.max(axis=1) < wanted
    if smaller.mean() > 0.5:
        median = int(np.median(sizes.max(axis=1)))
        what = (f"data.image_size={wanted} enlarges {share(int(smaller.sum()), len(smaller))} of the images, "
                f"whose longer side is {median} in the median: it adds work, not detail")  # fmt: skip
        return [Finding("note", "enlarged", what, (), f"data.image_size={suggestion or median} is as good, unless "
                        "pretrained weights want that size")]  # fmt: skip
    return []
