"""Which images there are, listed leniently: what `sources.listing` stops at becomes a finding, and the listing goes on.

Without faults, files, labels and order are those of `sources.listing`; a test holds the two together.
"""

import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from mlcli.data.check.cells import Cells, read_cells, split_of_rows
from mlcli.data.check.collection import UNLABELLED
from mlcli.data.check.finding import Finding, Severity
from mlcli.data.config import ImageCsv, ImageFolder
from mlcli.data.decode import EXTENSIONS
from mlcli.data.sources.listing import SPLIT_FOLDERS
from mlcli.text import first_few, plural

OTHER_PICTURES = (".heic", ".heif", ".avif", ".jfif", ".jp2", ".tga", ".psd", ".svg", ".dng", ".cr2", ".nef", ".dcm")
"""Pictures as well, but none that training reads."""
LITTER = {"__macosx", "@eadir", "thumbs", "$recycle.bin", "lost+found", "labels", "annotations", "images"}
"""Names of folders that programs leave behind, or that hold no class."""
SPLIT_LIKE = {*SPLIT_FOLDERS, "training", "testing", "eval", "evaluation", "dev"}


@dataclass
class Found:
    """Files and labels as found: paths (relative to root), labels and split of each.

    held_out: the splits still to be divided off `train`, with their shares.
    """

    root: str
    class_names: tuple[str, ...] = ()
    paths: list[bytes] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    split_of: list[str] = field(default_factory=list)
    held_out: dict[str, float] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    def say(self, severity: Severity, kind: str, text: str, places: tuple[str, ...] = (), fix: str = "") -> None:
        self.findings.append(Finding(severity, kind, text, places, fix))


def list_images(config: ImageFolder | ImageCsv) -> Found:
    """Never raises: a folder or file that cannot be read at all gives an empty listing."""
    return _folder(config) if isinstance(config, ImageFolder) else _csv(config)


# --- folders ---------------------------------------------------------------------------------------------------------


def _folder(config: ImageFolder) -> Found:
    root = config.root
    found = Found(str(root))
    if not root.is_dir():
        return found
    folders, loose = _contents(root, found)
    given: dict[str, list[Path]] = {}
    for name in folders:
        if name in SPLIT_FOLDERS:
            given.setdefault(SPLIT_FOLDERS[name], []).append(root / name)
    if not ("train" in given and any(_contents(path, found)[0] for path in given["train"])):
        given = {}
    shares = {"val": config.val, "test": config.test}
    found.held_out = {split: part for split, part in shares.items() if split not in given}
    _say_layout(found, config, folders, given)
    files: dict[str, dict[str, list[bytes]]] = {}
    for split, places in (given or {"train": [root]}).items():
        classes = files.setdefault(split, {})
        for place in places:
            names, beside = _contents(place, found)
            loose += [os.path.relpath(place / name, root) for name in beside] if given else []
            for name in names:
                classes.setdefault(name, []).extend(sorted(_images_below(place / name, root, found)))
    if loose:
        lie = plural(len(loose), "image lies", "images lie")
        what = f"{lie} beside the class folders, not in one, and will not be used"
        found.say("note", "loose-images", what, tuple(loose), "move each into the folder of its class, or remove it")
    _label(found, files)
    return found


def _label(found: Found, files: dict[str, dict[str, list[bytes]]]) -> None:
    empty = [(split, name) for split, classes in files.items() for name, paths in classes.items() if not paths]
    if empty:
        everywhere = [name for split, name in empty if not any(classes.get(name) for classes in files.values())]
        what = f"{plural(len(empty), 'class folder holds', 'class folders hold')} no images"
        if everywhere:
            what += f"; of {first_few([repr(name) for name in sorted(set(everywhere))])} there is none at all"
        kinds = ", ".join(extension[1:] for extension in EXTENSIONS)
        places = tuple(f"{split}/{name}" if len(files) > 1 else name for split, name in empty)
        found.say("error", "empty-class", what, places, f"add images ({kinds}), or remove the folders")
    found.class_names = tuple(sorted({name for classes in files.values() for name, paths in classes.items() if paths}))
    position = {name: label for label, name in enumerate(found.class_names)}
    for split in ("train", "val", "test"):
        for name, paths in sorted(files.get(split, {}).items()):
            found.paths += paths
            found.labels += [position[name]] * len(paths) if paths else []
            found.split_of += [split] * len(paths)


def _say_layout(found: Found, config: ImageFolder, folders: list[str], given: dict[str, list[Path]]) -> None:
    for split, places in given.items():
        if len(places) > 1:
            names = " and ".join(f"{path.name}/" for path in places)
            found.say("error", "two-folders-for-a-split", f"{names} could both be the {split} split",
                      tuple(map(str, places)), "rename or remove one of them")  # fmt: skip
    used = {path.name for places in given.values() for path in places}
    unused = [name for name in folders if given and name not in used]
    if unused:
        found.say("note", "unused-folders", "folders beside train/ are not used", tuple(unused),
                  "move what is wanted into train/, val/ or test/")  # fmt: skip
    splitlike = [name for name in folders if name.casefold() in SPLIT_LIKE]
    if not given and len(splitlike) > 1:
        found.say("error", "splits-taken-for-classes",
                  "folders that look like splits are taken for classes, since there is no train/ with folders in it",
                  tuple(splitlike), "name them train, val and test, with a folder for each class inside")  # fmt: skip
    absent = [split for split, part in found.held_out.items() if part and given]
    for split in absent:
        text = f"there is no {split}/ folder: {getattr(config, split):g} of train/ is held out for it"
        found.say("note", "split-held-out", text, (), f"data.{split} says how much")


def _contents(folder: Path, found: Found) -> tuple[list[str], list[str]]:
    """Names of sub-folders and of images, sorted; hidden ones left out."""
    entries = [entry for entry in _entries(os.fspath(folder), found) if not entry.name.startswith(".")]
    folders = sorted(entry.name for entry in entries if entry.is_dir())
    return folders, sorted(entry.name for entry in entries if not entry.is_dir() and _is_image(entry.name))


def _images_below(folder: Path, root: Path, found: Found) -> list[bytes]:
    """Paths of images at any depth, relative to root; what else lies there is counted by its ending."""
    pending, images = [(os.fspath(folder), frozenset[str]())], []
    others: Counter[str] = Counter()
    skip = len(os.fspath(root)) + 1
    while pending:
        here, above = pending.pop()
        real = os.path.realpath(here)
        if real in above:
            continue
        for entry in _entries(here, found):
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                pending.append((entry.path, above | {real}))
            elif _is_image(entry.name):
                images.append(os.fsencode(entry.path[skip:]))
            else:
                others[os.path.splitext(entry.name)[1].lower() or entry.name] += 1
    _say_others(found, folder, others)
    return images


def _say_others(found: Found, folder: Path, others: Counter[str]) -> None:
    pictures = {ending: count for ending, count in others.items() if ending in OTHER_PICTURES}
    rest = {ending: count for ending, count in others.items() if ending not in OTHER_PICTURES}
    name = os.path.relpath(folder, found.root)
    if pictures:
        counts = ", ".join(f"{count:,} {ending}" for ending, count in sorted(pictures.items()))
        _extend(found, "warning", "unknown-picture-format", "pictures of formats that are not read are left out",
                f"{name}: {counts}", "convert them to JPEG or PNG")  # fmt: skip
    if rest:
        counts = ", ".join(f"{count:,} {ending}" for ending, count in sorted(rest.items()))
        _extend(found, "note", "other-files", "files that are no images are not used", f"{name}: {counts}", "")


def _extend(found: Found, severity: Severity, kind: str, text: str, place: str, fix: str) -> None:
    """One finding of each kind, however many folders it is about."""
    for number, finding in enumerate(found.findings):
        if finding.kind == kind:
            if place not in finding.places:
                found.findings[number] = Finding(finding.severity, kind, text, (*finding.places, place), fix)
            return
    found.say(severity, kind, text, (place,), fix)


def _entries(folder: str, found: Found) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError as error:
        what = f"folders cannot be looked into ({(error.strerror or str(error)).lower()})"
        _extend(found, "error", "unreadable-folder", what, folder, "give yourself access: chmod -R u+rX FOLDER")
        return []


def _is_image(name: str) -> bool:
    return name.lower().endswith(EXTENSIONS)


# --- CSV -------------------------------------------------------------------------------------------------------------


def _csv(config: ImageCsv) -> Found:
    cells = read_cells(config.file)
    root = os.fspath(config.root or config.file.parent)
    found = Found(root, findings=list(cells.findings))
    keys = {"data.path_column": config.path_column, "data.label_column": config.label_column}
    if not cells.has(keys, found.findings):
        return found
    paths, labels = cells.column(config.path_column), cells.column(config.label_column)
    _say_rows(found, cells, paths, labels, root)
    splits, problems = split_of_rows(cells, config.split_column)
    found.findings += problems
    found.held_out = {} if config.split_column else {"val": config.val, "test": config.test}
    found.class_names = tuple(sorted({label for label in labels if label}))
    position = {name: label for label, name in enumerate(found.class_names)}
    seen: set[str] = set()
    rows = []
    for row, path in enumerate(paths):
        if path not in seen and os.path.isfile(os.path.join(root, path)):
            rows.append(row)
            seen.add(path)
    order = {"train": 0, "val": 1, "test": 2}
    rows.sort(key=lambda row: order[splits[row]])  # stable: of one split, in the file's order
    found.paths = [os.fsencode(paths[row]) for row in rows]
    found.labels = [position.get(labels[row], UNLABELLED) for row in rows]
    found.split_of = [splits[row] for row in rows]
    return found


def _say_rows(found: Found, cells: Cells, paths: list[str], labels: list[str], root: str) -> None:
    unlabelled = [row for row, label in enumerate(labels) if not label]
    if unlabelled:
        found.say("error", "no-label", f"{plural(len(unlabelled), 'row has', 'rows have')} no label",
                  cells.places(unlabelled, paths), "fill these cells, or remove the lines")  # fmt: skip
    absent = [row for row, path in enumerate(paths) if not os.path.isfile(os.path.join(root, path))]
    if absent:
        found.say("error", "missing-image",
                  f"{len(absent):,} of {plural(len(paths), 'image')} are not in {root}", cells.places(absent, paths),
                  "correct the paths, or set data.root to the folder they are relative to")  # fmt: skip
    first: dict[str, int] = {}
    again = [row for row, path in enumerate(paths) if first.setdefault(path, row) != row]
    differing = [row for row in again if labels[row] != labels[first[paths[row]]]]
    if again:
        what = f"{plural(len(again), 'row lists', 'rows list')} an image once more"
        if differing:
            what += f", {len(differing):,} of them with another label"
        found.say("error", "listed-twice", what, cells.places(again, paths), "keep one line for each image")
