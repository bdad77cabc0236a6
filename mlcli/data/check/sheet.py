"""Pictures to look at: samples of each class, pairs that show the same, and labels that are doubted."""

import os
from collections.abc import Sequence

import numpy as np
from PIL import Image

from mlcli.data.check.duplicates import Pair
from mlcli.data.check.examination import Sheet
from mlcli.data.check.labels import Suspicions
from mlcli.data.check.scan import Collection
from mlcli.errors import DataError
from mlcli.show.drawing import Tile, sheet
from mlcli.show.palette import PAPER, TRACK
from mlcli.text import plural

SIDE = 112
"""Pixels of the square that an image is fitted into; digits of 8x8 become 14 times as large, pixel by pixel."""
PER_CLASS, MAX_CLASSES = 10, 40
MAX_PAIRS, MAX_SUSPECTS = 48, 24
AMBER, RED = "#c27004", "#c53028"
EMPTY, UNREADABLE = Image.new("RGB", (1, 1), PAPER), Image.new("RGB", (1, 1), TRACK)


def class_sheet(collection: Collection, usable: np.ndarray) -> Sheet | None:
    """A few samples of each class, drawn at random from a fixed seed. usable: positions of images that can be read."""
    labels = collection.labels[usable]
    classes = [label for label in range(len(collection.class_names)) if (labels == label).any()]
    if not classes:
        return None
    random, tiles = np.random.default_rng(0), []
    for label in classes[:MAX_CLASSES]:
        members = usable[labels == label]
        chosen = random.choice(members, min(PER_CLASS, len(members)), replace=False)
        pictures = [_picture(collection, index) for index in chosen.tolist()]
        pictures += [EMPTY] * (PER_CLASS - len(pictures))
        line = f"{collection.class_names[label]}\t{plural(len(members), 'image')}"
        tiles.append(Tile(pictures[0], (line,), more=tuple(pictures[1:])))
    note = f"{plural(len(usable), 'image')} · {plural(len(classes), 'class', 'classes')}"
    note += f", the first {MAX_CLASSES} shown" if len(classes) > MAX_CLASSES else ""
    image = sheet("Samples of each class", note, tiles, columns=1, side=SIDE)
    return Sheet("classes", f"{PER_CLASS} samples of each class", image)


def pair_sheet(collection: Collection, pairs: Sequence[Pair]) -> Sheet | None:
    """Two images that show the same, side by side: those under two labels and in two splits first."""
    if not pairs:
        return None

    def severity(pair: Pair) -> tuple[bool, bool]:
        return (
            bool(collection.labels[pair.first] != collection.labels[pair.second]),
            bool(collection.split_of[pair.first] != collection.split_of[pair.second]),
        )

    tiles = []
    for pair in sorted(pairs, key=lambda pair: (*(not harm for harm in severity(pair)), -pair.score))[:MAX_PAIRS]:
        disagree, across = severity(pair)
        names = [os.path.basename(collection.name(index)) for index in (pair.first, pair.second)]
        places = [
            " · ".join(word for word in (collection.split(index), collection.label(index)) if word)
            for index in (pair.first, pair.second)
        ]
        likeness = pair.likeness + ("" if pair.score >= 0.995 else f" {pair.score:.2f}")
        tiles.append(
            Tile(
                _picture(collection, pair.first),
                ("\t".join(names), "\t".join(places), likeness),
                more=(_picture(collection, pair.second),),
                frame=RED if disagree else AMBER if across else None,
                framed=2,
            )
        )
    note = plural(len(pairs), "pair") + (f", {len(tiles)} of them shown" if len(tiles) < len(pairs) else "")
    note += " · red: under two labels · amber: in two splits"
    image = sheet("Images that show the same", note, tiles, columns=4, side=SIDE)
    return Sheet("duplicates", "pairs of images that show the same", image)


def suspicion_sheet(collection: Collection, found: Suspicions | None) -> Sheet | None:
    """Each doubted image and the nearest ones of the class it looks like; the most confident first."""
    if found is None or not len(found.suspects):
        return None
    tiles = []
    for number, index in enumerate(found.suspects[:MAX_SUSPECTS].tolist()):
        likely = collection.class_names[found.likely[number]]
        line = f"'{collection.label(index)}' looks like '{likely}' ({found.confidence[number]:.2f})"
        similar = tuple(_picture(collection, neighbour) for neighbour in found.neighbours[number].tolist())
        name = os.path.join(*collection.name(index).split(os.sep)[-2:])
        tiles.append(Tile(_picture(collection, index), (line, name), more=similar, frame=AMBER))
    note = f"{plural(len(found.suspects), 'label')} doubted"
    note += f", the first {len(tiles)} shown" if len(tiles) < len(found.suspects) else ""
    note += " · framed: the image · right of it: the most similar images of the class it looks like"
    image = sheet("Labels to look at", note, tiles, columns=2, side=SIDE)
    return Sheet("suspicious", "labels to look at, with similar images of the likely class", image)


def _picture(collection: Collection, index: int) -> Image.Image:
    try:
        return collection.pictures.picture(index)
    except DataError:
        return UNREADABLE
