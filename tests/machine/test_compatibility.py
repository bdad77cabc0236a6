"""The table and its rules, against what the installed PyTorch says of its own releases."""

import itertools

import pytest
import torch

from mlcli.machine.env.compatibility import capability_range, load_table, runs_on, translated_on

TABLE = load_table()
DEVICES = [50, 52, 53, 60, 61, 62, 70, 72, 75, 80, 86, 87, 89, 90, 100, 103, 110, 120, 121]


def pair(number: int) -> tuple[int, int]:
    return number // 10, number % 10


@pytest.mark.parametrize("cuda", [(12, 6), (13, 2)])
def test_code_runs_where_pytorch_says_it_does(cuda):
    rules = torch.cuda.DEVICE_REQUIREMENT
    if cuda >= (13, 2):
        rules = getattr(torch.cuda, "DEVICE_REQUIREMENT_POST_JETSON_SBSA_UNIFICATION", rules)
    for code, device in itertools.product(rules, DEVICES):
        if code == 87 or (code == 72 and cuda >= (13, 2)):
            continue  # PyTorch leaves the Jetson boards' own code out of its later rule
        assert runs_on([f"sm_{code}"], pair(device), cuda) == (device in rules[code]), (code, device)


def test_code_for_one_chip_and_texts():
    assert runs_on(["sm_90a"], (9, 0))
    assert not runs_on(["sm_100a"], (10, 3))
    assert runs_on(["sm_100f"], (10, 3))
    assert not runs_on(["compute_90"], (9, 0))
    assert translated_on(["compute_90"], (12, 0))
    assert not translated_on(["compute_120"], (9, 0))
    assert capability_range(["sm_75", "sm_120", "sm_90a", "compute_120"]) == "7.5 … 12.0"
    assert capability_range([]) == "none"


def test_builds_hold_the_code_pytorch_lists():
    listed = torch.cuda.PYTORCH_RELEASES_CODE_CC
    for machine, builds in TABLE.builds.items():
        for build in builds:
            ours = {int(code.removeprefix("sm_")) for code in build.codes}
            assert ours == listed.get(".".join(map(str, build.cuda)), {}).get(machine, ours), build


def test_the_installed_build_is_in_the_table():
    listed = [
        build.codes for build in TABLE.builds["x86_64"] if f"{build.cuda[0]}.{build.cuda[1]}" == torch.version.cuda
    ]
    assert torch.version.cuda is None or tuple((torch._C._cuda_getArchFlags() or "").split()) in listed


@pytest.mark.parametrize(
    ("driver", "system", "cuda"),
    [
        ("550.144.03", "Linux", (12, 4)),
        ("580.95.05", "Linux", (13, 0)),
        ("470.256.02", "Linux", (11, 4)),
        ("999.1", "Linux", (13, 3)),
        ("440.100", "Linux", None),
        ("551.61", "Windows", (12, 4)),
    ],
)
def test_cuda_of_a_driver(driver, system, cuda):
    assert TABLE.cuda_of_driver(driver, system) == cuda


def test_the_table_is_whole():
    assert TABLE.checked == "2026-11-23"
    assert TABLE.oldest_driver(13, "Linux") == "580"
    assert TABLE.oldest_driver(99, "Linux") == ""
    assert {build.cuda[0] for build in TABLE.builds["x86_64"]} <= set(TABLE.families)
    assert all(build.cuda in TABLE.toolkits for build in TABLE.builds["x86_64"])
    for capability in itertools.chain.from_iterable(known.capabilities for known in TABLE.architectures):
        known = TABLE.architecture(capability)
        assert known
        newest = [build for build in TABLE.builds["x86_64"] if runs_on(build.codes, capability, build.cuda)]
        assert known.last_toolkit is None or all(build.cuda[0] <= known.last_toolkit for build in newest), known
