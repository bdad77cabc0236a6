"""Folders of image files, one for each class: which files there are, and what is wrong with the layout.

No image is opened but one of each unknown ending; 60,000 files are listed in a fifth of a second, as no file is asked
for its status.
"""

import contextlib
import os
from collections import Counter
from pathlib import Path, PurePath

import numpy as np

from mlcli.data.decode import CONVERT, EXTENSIONS, OTHER_PICTURES, is_image_name, opened
from mlcli.data.finding import Finding, refuse
from mlcli.data.sources.listing import Listing, nothing
from mlcli.data.splits import SPLITS, named_split
from mlcli.errors import DataError
from mlcli.outputs import MARK, holds_output, is_own_picture
from mlcli.reading import why_absent
from mlcli.text import plural

LITTER = {"__macosx", "@eadir", "$recycle.bin", "lost+found", "system volume information"}
"""Folders that systems leave behind; they count as little as hidden ones."""


def read_folder(root: Path, *, val: float = 0.15, test: float = 0.15) -> Listing:
    """Class folders below train/, val/ and test/, or below root, to be divided. Never raises.

    Folders of splits may be spelled otherwise, as `named_split` reads them; what they were taken for is a finding.

    val, test: the shares to be held out where there is no folder for that split.
    """
    if not root.is_dir():
        what = "this is a file, not a folder" if root.exists() else "there is no such folder"
        fix = "; ".join(filter(None, [why_absent(root), "set data.root to the folder that holds the images"]))
        return nothing(root, [Finding("error", "no-folder", what, (), fix)])
    walk = _Walk(os.fspath(root))
    folders, loose = walk.contents("")
    given: dict[str, list[str]] = {}
    for name in folders:
        if split := named_split(name):
            given.setdefault(split, []).append(name)
    without_classes = [name for names in given.values() for name in names]
    if any(walk.contents(name)[0] for name in given.get("train", ())):
        without_classes = []
    else:
        given = {}  # train holds no folders, so it is a class of that name
    flat = {split: places for split, places in given.items() if not any(walk.contents(place)[0] for place in places)}
    loose += [
        os.path.join(place, name) for places in flat.values() for place in places for name in walk.contents(place)[1]
    ]
    given = {split: places for split, places in given.items() if split not in flat}
    held_out = {split: share for split, share in {"val": val, "test": test}.items() if split not in given}
    groups: list[tuple[int, str, list[bytes]]] = []  # position of the split, class, paths
    empty = []
    for split, places in (given or {"train": [""]}).items():
        for place in places:
            names, outside = walk.contents(place)
            loose += [os.path.join(place, name) for name in outside] if place else []
            for name in names:
                folder = os.path.join(place, name)
                found = walk.images_below(folder)
                if not found and folder in walk.outputs:
                    continue
                if not found and walk.has_seen_all(folder):
                    empty.append(f"{folder} ({others})" if (others := walk.others_below(folder)) else folder)
                groups.append((SPLITS.index(split), name, sorted(found)))
    groups.sort(key=lambda group: group[:2])
    class_names = tuple(sorted({name for _, name, found in groups if found}))
    position = {name: label for label, name in enumerate(class_names)}
    counts = np.array([len(found) for _, _, found in groups], dtype=np.int64)
    return Listing(
        origin=str(root),
        root=str(root),
        class_names=class_names,
        paths=np.array([path for _, _, found in groups for path in found], dtype=bytes),
        labels=np.repeat(np.array([position.get(name, -1) for _, name, _ in groups], dtype=np.int64), counts),
        split_of=np.repeat(np.array([code for code, _, _ in groups], dtype=np.int8), counts),
        held_out=held_out,
        findings=(
            *walk.unreadable(),
            *_layout(folders, given, held_out, without_classes, flat),
            *_one_folder(walk, root, given, [name for _, name, found in groups if found]),
            *_outside_of_classes(root, bool(groups), empty, loose),
            *walk.passed_over(),
            *walk.left_out(),
        ),
    )


def find_images(folder: Path) -> list[Path]:
    """Images at any depth of a folder, sorted. Raises DataError if there are none, or if it cannot be looked into."""
    return look_below(folder)[0]


def look_below(folder: Path) -> tuple[list[Path], list[Finding]]:
    """Images at any depth of a folder, sorted, and what is passed over there. Raises DataError as `find_images`."""
    walk = _Walk(os.fspath(folder))
    found = walk.images_below("")
    refuse(walk.unreadable(), str(folder))
    if not found:
        others = walk.others_below("")
        what = f"no images in this folder, only {others}" if others else "no images in this folder"
        what += " but those that mlcli wrote" if walk.outputs else ""
        raise DataError(what, where=str(folder), fix=f"files that end in {' '.join(EXTENSIONS)}; others: {CONVERT}")
    return sorted(folder / os.fsdecode(path) for path in found), walk.passed_over()


class _Walk:
    """Looks into folders below a root, and remembers those it may not look into and the files it passes over.

    Folders are given relative to the root. Hidden files and folders do not count.
    """

    def __init__(self, root: str) -> None:
        self._root = os.path.join(root, "")
        self._unreadable: dict[str, list[str]] = {}
        self._others: dict[str, Counter[str]] = {}
        self._nameless: dict[str, str] = {}  # by ending, a picture that does not end as pictures do
        self._own: dict[str, int] = {}
        """By folder, how many pictures of predictions there are among others."""
        self.outputs: set[str] = set()
        """Folders that hold what mlcli wrote, or have such below them; they are not looked into."""

    def contents(self, folder: str) -> tuple[list[str], list[str]]:
        """Names of the folders and of the images in it, sorted."""
        entries = self._entries(self._root + folder)
        folders = sorted(entry.name for entry in entries if _is_folder(entry))
        return folders, sorted(entry.name for entry in entries if is_image_name(entry.name) and not _is_folder(entry))

    def images_below(self, folder: str) -> list[bytes]:
        """Paths of images at any depth, relative to root. Links are followed, but not into a folder they stand in."""
        pending, images = [(self._root + folder, frozenset[str]())], []
        others: Counter[str] = Counter()
        skip = len(self._root)
        while pending:
            here, above = pending.pop()
            real = os.path.realpath(here)
            if real in above:
                continue
            for entry in self._entries(here):
                if _is_folder(entry):
                    pending.append((entry.path, above | {real}))
                elif is_image_name(entry.name):  # a link to nowhere counts: reading it will name it
                    images.append(os.fsencode(entry.path[skip:]))
                else:
                    others[ending := os.path.splitext(entry.name)[1].lower()] += 1
                    if others[ending] == 1 and ending not in OTHER_PICTURES:
                        with contextlib.suppress(DataError), opened(entry.path):  # an image, whatever it is called
                            self._nameless[ending] = entry.path[skip:]
        if others:
            self._others[folder] = others
        return images

    def _entries(self, folder: str) -> list[os.DirEntry[str]]:
        try:
            with os.scandir(folder) as entries:
                found = list(entries)
            own = {entry.name for entry in found if is_own_picture(folder, entry.name)}
            if holds_output({entry.name for entry in found}) or len(own) == len(found) > 0:
                below = folder[len(self._root) :]
                self.outputs |= {below, *map(str, PurePath(below).parents)}
                return []
            self._own[folder] = len(own)
            own |= {entry.name for entry in found if entry.name.startswith(".") or entry.name.lower() in LITTER}
            return [entry for entry in found if entry.name not in own]
        except OSError as error:
            folders = self._unreadable.setdefault(error.strerror or str(error), [])
            folders += [folder] if folder not in folders else []
            return []

    def others_below(self, folder: str) -> str:
        """Files below a folder that are passed over, by their endings: "6 .heic, 2 .txt"."""
        counts = sorted(self._others.get(folder, {}).items())
        return ", ".join(f"{count:,} {ending or 'without an ending'}" for ending, count in counts)

    def has_seen_all(self, folder: str) -> bool:
        """Whether it and all folders below it could be looked into."""
        top = os.path.join(self._root + folder, "")
        return not any(os.path.join(path, "").startswith(top) for paths in self._unreadable.values() for path in paths)

    def unreadable(self) -> list[Finding]:
        return [
            Finding("error", "unreadable-folder", f"folders cannot be read ({reason})", tuple(folders),
                    "give yourself access: chmod -R u+rX FOLDER")
            for reason, folders in self._unreadable.items()
        ]  # fmt: skip

    def left_out(self) -> list[Finding]:
        """The folders that are not read because mlcli wrote what is in them; the highest of each."""
        tops = tuple(sorted(folder for folder in self.outputs if os.sep not in folder and folder not in ("", ".")))
        if "" in self.outputs:
            fix = "name the folder of your own images"
            if os.path.exists(os.path.join(self._root, MARK)):
                fix += f"; without its file {MARK} this one is read as well"
            return [Finding("error", "outputs", "this folder holds what mlcli wrote, not data", (), fix)]
        found = [Finding("note", "outputs", "folders that mlcli wrote are not read", tops)] if tops else []
        if own := sum(self._own.values()):
            found.append(Finding("note", "own-pictures", f"{plural(own, 'picture')} that mlcli drew are not read"))
        return found

    def passed_over(self) -> list[Finding]:
        """Files below class folders that are not used, by their endings."""
        places: dict[str, list[str]] = {"format": [], "ending": [], "rest": []}
        for folder, others in self._others.items():
            for ending, count in sorted(others.items()):
                kind = "format" if ending in OTHER_PICTURES else "ending" if ending in self._nameless else "rest"
                example = f", such as {self._nameless[ending]}" if kind == "ending" else ""
                named = ending or "without an ending"
                places[kind].append(
                    f"{folder}: {count:,} {named}{example}" if folder else f"{count:,} {named}{example}"
                )
        found = []
        if places["format"]:
            what = "pictures of formats that are not read are left out"
            found.append(Finding("warning", "unknown-picture-format", what, tuple(places["format"]), CONVERT))
        if places["ending"]:
            what = "pictures whose names do not end as pictures' do are left out"
            fix = f"rename them to end in one of {' '.join(EXTENSIONS)}"
            found.append(Finding("warning", "unknown-ending", what, tuple(places["ending"]), fix))
        if places["rest"]:
            what = "files that are no images are not used"
            found.append(Finding("note", "other-files", what, tuple(places["rest"])))
        return found


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether it is one, or leads to one; a link that leads in a circle is none."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def _layout(
    folders: list[str],
    given: dict[str, list[str]],
    held_out: dict[str, float],
    without_classes: list[str],
    flat: dict[str, list[str]],
) -> list[Finding]:
    """Return findings about the folders of splits. without_classes: those called after splits that are none; flat:
    those without class folders, by split."""
    if len(without_classes) > 1:
        what = "folders that look like splits would be taken for classes, since there is no train/ with folders in it"
        fix = "name them train, val and test, with a folder for each class inside"
        return [Finding("error", "splits-taken-for-classes", what, tuple(without_classes), fix)]
    if not given:
        return []
    found = []
    named = [(place, split) for split, places in given.items() for place in places]
    renamed = tuple(f"{place}/: {split}" for place, split in named if place not in (*SPLITS, "valid", "validation"))
    if renamed:
        found.append(Finding("note", "split-folders", "folders are taken for splits by their names", renamed))
    for split, places in given.items():
        if len(places) > 1:
            what = f"both {' and '.join(f'{place}/' for place in places)} could be the {split} split"
            found.append(Finding("error", "two-folders-for-a-split", what, (), "rename or remove one of them"))
    for split, places in flat.items():
        what = (
            f"{places[0]}/ has no class folders in it, so nothing is known about its images: it is not used for {split}"
        )
        found.append(Finding("warning", "split-without-classes", what, (), "move each into the folder of its class"))
    used = {place for places in (*given.values(), *flat.values()) for place in places}
    unused = [name for name in folders if name not in used]
    if unused:
        fix = "move what is wanted into train/, val/ or test/"
        found.append(Finding("note", "unused-folders", "folders next to train/ are not used", tuple(unused), fix))
    for split, share in held_out.items():
        if share:
            of_classes = " with classes" if split in flat else ""
            what = f"there is no {split}/ folder{of_classes}: {share:g} of train/ is held out for it"
            found.append(Finding("note", "split-held-out", what, (), f"data.{split} sets the share"))
    return found


def _one_folder(walk: "_Walk", root: Path, given: dict[str, list[str]], names: list[str]) -> list[Finding]:
    """Errors where all classes lie in a folder that looks like the only one, and where two classes are one folder."""
    inner = names[0] if len(set(names)) == 1 and not given else ""
    while inner:
        folders, images = walk.contents(inner)
        if images or not folders:
            break
        if len(folders) > 1 or named_split(folders[0]):
            what = f"there is one folder only, {names[0]}/, and {plural(len(folders), 'folder')} in {inner}/"
            fix = f"give the folder that holds the classes: {root / inner}"
            return [Finding("error", "wrapped", what, tuple(folders), fix)]
        inner = os.path.join(inner, folders[0])
    real: dict[str, str] = {}
    found = []
    for place in [place for places in given.values() for place in places] or [""]:
        for name in names:
            path = os.path.join(root, place, name)
            other = real.setdefault(os.path.realpath(path), name) if os.path.isdir(path) else name
            if other != name or f"{os.path.realpath(root)}/".startswith(f"{os.path.realpath(path)}/"):
                found.append(f"{os.path.join(place, name)} = {other if other != name else 'the folder it stands in'}")
    fix = "remove the link, or the class that it repeats"
    return [Finding("error", "linked-class", "class folders are links to others", tuple(found), fix)] if found else []


def _outside_of_classes(root: Path, has_classes: bool, empty: list[str], loose: list[str]) -> list[Finding]:
    """Class folders without images, and images without a class folder."""
    found = []
    if not has_classes:
        what = f"there are no class folders in {root}, only {plural(len(loose), 'image')}"
        what = what if loose else f"there are no images in {root}, and no class folders"
        fix = f"lay images out as {root}/CLASS/*.jpg or {root}/train/CLASS/*.jpg, or list them in a CSV file"
        return [Finding("error", "no-classes", what, (), fix)]
    if empty:
        what = f"{plural(len(empty), 'class folder holds', 'class folders hold')} no images"
        fix = f"add images ({', '.join(extension[1:] for extension in EXTENSIONS)}), or remove the folders"
        found.append(Finding("error", "empty-class", what, tuple(empty), fix))
    if loose:
        what = f"{plural(len(loose), 'image lies', 'images lie')} outside of the class folders and will not be used"
        fix = "move each into the folder of its class, or remove it"
        found.append(Finding("note", "loose-images", what, tuple(loose), fix))
    return found
