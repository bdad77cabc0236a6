"""Architectures of other libraries by their name, and the files their weights come from."""

import hashlib
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from urllib.parse import urlparse

import torch
from torch import Tensor, nn

from mlcli.errors import CheckpointError, ConfigError, DataError
from mlcli.models.weights import LoadReport, copy_matching
from mlcli.reading import SILENCE_S, giving_up_after

MOST_NAMED = 100
"""Architectures that a message lists."""


def unknown_arch(library: str, arch: str, known: Sequence[str], *, where: str = "model.arch") -> ConfigError:
    """The error for an architecture that a library does not have, with close names."""
    near = get_close_matches(arch.lower(), known, n=3)
    listed = ", ".join(known) if len(known) <= MOST_NAMED else "the names in its documentation"
    fix = f"did you mean {' or '.join(near)}?" if near else f"choose one of {listed}"
    return ConfigError(f"{library} has no classification model '{arch}'", where=where, fix=fix)


def take_weights(net: nn.Module, arch: str, tensors: dict[str, Tensor], path: Path) -> LoadReport:
    """Copy tensors to where they fit. path: where they are from.

    Raises CheckpointError if most of the network gets none: some names, such as bn1, occur in networks of all kinds.
    """
    report = copy_matching(net, tensors, path)
    wanted = len(report.loaded) + len(report.missing) + len(report.mismatched)
    if 2 * len(report.loaded) < wanted:
        what = f"{path} fits {arch} in {len(report.loaded)} of {wanted} tensors only: it is of another network"
        raise CheckpointError(what, where="model.weights", fix="choose weights of this arch")
    return report


def fetched(url: str) -> Path:
    """The file behind an address of torchvision's, from torch's cache if it is there; its checksum is verified."""
    cache = Path(torch.hub.get_dir()) / "checkpoints"
    path = cache / Path(urlparse(url).path).name
    if not path.is_file():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with giving_up_after(SILENCE_S):
                torch.hub.download_url_to_file(url, str(path))
        except OSError as error:  # urllib's errors are OSErrors too
            what = f"the default weights could not be downloaded: {error}"
            fix = f"download that address elsewhere and put the file at {path}, or set model.weights to none or a file"
            raise DataError(what, where=url, fix=fix) from None
    expected = path.stem.rpartition("-")[2]  # resnet18-f37072fd.pth: the first digits of its sha256
    with path.open("rb") as file:
        if not hashlib.file_digest(file, "sha256").hexdigest().startswith(expected):
            raise CheckpointError(f"{path} is damaged: its sha256 does not begin with {expected}", fix=f"rm '{path}'")
    return path
