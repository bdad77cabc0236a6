"""Every kind of mistake in a YAML, the line that answers it, and that nothing but a ConfigError ever comes out."""

# ruff: noqa: E501 (a case a line: what is written, what is answered)

import os
import pickle
import random
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlcli.errors import ConfigError, ExitCode
from mlcli.experiment import Experiment
from mlcli.schema.places import SHOWN_PROBLEMS, ConfigErrors, Origin
from mlcli.schema.yaml12 import MAX_KEY, dump, parse, scalar

VALID = """\
task: classification
data: {name: digits}
model: {name: mlp, hidden: [128, 64], activation: relu, dropout: 0.1}
loss: {name: cross_entropy, label_smoothing: 0.0}
optimizer: {name: sgd, lr: 0.1, momentum: 0.9, weight_decay: 1e-4}
schedule: {name: cosine, warmup_epochs: 1}
train: {epochs: 20, batch_size: 64, precision: auto, seed: 0}
"""
START = "task: classification\ndata: {name: digits}\n"
"""Two lines; what a case adds begins on line 3."""
MODEL = "model: {name: mlp}\n"


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Write x.yaml into a folder of its own, which is the working folder."""
    monkeypatch.chdir(tmp_path)

    def write(content: str | bytes) -> Path:
        path = Path("x.yaml")
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write


def complaint(path: Path, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        Experiment.load(path, overrides)
    assert caught.value.code == ExitCode.CONFIG
    return str(caught.value)


# --- scalars ---------------------------------------------------------------------------------------------------------

SCALARS: dict[str, Any] = {
    "1e-3": 0.001, "1E5": 1e5, "-2.5e+1": -25.0, ".5": 0.5, "5.": 5.0, "010": 10, "0o10": 8, "0x1F": 31, "-7": -7,
    "+3": 3, "1_000": "1_000", "12:30": "12:30", "no": "no", "on": "on", "off": "off", "yes": "yes", "y": "y",
    "true": True, "False": False, "tRUE": "tRUE", "null": None, "~": None, "": None, "nil": "nil", "None": "None",
    ".inf": float("inf"), "-.INF": -float("inf"), "inf": "inf", "nan": "nan", "2001-01-01": "2001-01-01", "=": "=",
    "1e": "1e", "e5": "e5", "0b1": "0b1", "1.2.3": "1.2.3", "٣": "٣",
}  # fmt: skip


@pytest.mark.parametrize(("text", "value"), SCALARS.items(), ids=[repr(text) for text in SCALARS])
def test_unquoted_scalars_follow_yaml_12(text, value):
    read = parse(f"a: {text}", Origin("x.yaml", (f"a: {text}",))).data["a"]
    assert (type(read), read) == (type(value), value)


def test_nan_is_a_number():
    assert scalar(".nan") != scalar(".nan")


@pytest.mark.parametrize("quoted", ["'5'", '"5"', "'true'", '"null"', "|-\n  5"])
def test_quoted_scalars_are_text(quoted):
    assert isinstance(parse(f"a: {quoted}", Origin("x", ())).data["a"], str)


TEXT = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"))
KEYS = TEXT.filter(lambda key: key != "<<" and len(key) <= MAX_KEY)
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | TEXT
    | st.sampled_from(list(SCALARS)),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(KEYS, PLAIN, max_size=4))
def test_what_is_dumped_is_read_back(plain):
    text = dump(plain)
    assert parse(text, Origin("x", tuple(text.splitlines()))).data == plain


# --- messages --------------------------------------------------------------------------------------------------------

MESSAGES = {
    "unknown key": (
        MODEL + "train:\n  epocs: 3\n",
        "x.yaml:5:3: unknown key 'epocs' (did you mean 'epochs'?)\n      epocs: 3\n      ^",
    ),
    "unknown section": (MODEL + "modle: 3\n", "x.yaml:4:1: unknown key 'modle' (did you mean 'model'?)"),
    "key with hyphen": (MODEL + "train: {batch-size: 3}", "x.yaml:4:9: unknown key 'batch-size' (did you mean 'batch_size'?)"),
    "key in camel case": (MODEL + "train: {batchSize: 3}", "x.yaml:4:9: unknown key 'batchSize' (did you mean 'batch_size'?)"),
    "key of two letters": (MODEL + "optimizer: {name: sgd, lt: 3}", "x.yaml:4:24: unknown key 'lt' (did you mean 'lr'?)"),
    "other trainers' key": (
        MODEL + "optimizer: {name: sgd, learning_rate: 3}",
        "x.yaml:4:24: unknown key 'learning_rate' (did you mean 'lr'?)",
    ),
    "key without relatives": (
        "model: {name: mlp, zzz: 3}",
        "x.yaml:3:20: unknown key 'zzz' (there are: name, init, hidden, activation, dropout, batch_norm)",
    ),
    "key of another variant": (
        MODEL + "optimizer: {name: adam, nesterov: true}",
        "x.yaml:4:25: unknown key 'nesterov' in optimizer 'adam' (it belongs to sgd)",
    ),
    "key of another section": (MODEL + "train: {lr: 0.1}", "x.yaml:4:9: unknown key 'lr' (it belongs in optimizer)"),
    "key of an inner section": (MODEL + "patience: 3", "x.yaml:4:1: unknown key 'patience' (it belongs in schedule or train.early_stopping)"),
    "section in a section": (MODEL + "train: {optimizer: {name: sgd}}", "x.yaml:4:9: unknown key 'optimizer' (it belongs in the top level)"),
    "key in a list": (
        MODEL + "augment:\n  - name: cutout\n    sise: 3\n",
        "x.yaml:6:5: unknown key 'sise' (did you mean 'size'?)",
    ),
    "variant in capitals": (
        MODEL + "optimizer: {name: adamW}",
        "x.yaml:4:19: optimizer.name: 'adamW' is not one of sgd, adam, adamw, rmsprop (did you mean 'adamw'?)",
    ),
    "number as variant": (MODEL + "optimizer: {name: 3}", "x.yaml:4:19: optimizer.name: 3 is not one of sgd, adam, adamw, rmsprop"),
    "list as variant": (MODEL + "optimizer: {name: [a]}", "x.yaml:4:19: optimizer.name: ['a'] is not one of sgd, adam, adamw, rmsprop"),
    "part of a variant's name": (
        MODEL + "loss: {name: entropy}",
        "x.yaml:4:14: loss.name: 'entropy' is not one of cross_entropy, hinge, bce, focal, mse, l1, smooth_l1 "
        "(did you mean 'cross_entropy'?)",
    ),
    "wrong word": (MODEL + "train: {device: CPU}", "x.yaml:4:17: train.device: 'CPU' is not one of auto, cpu, cuda, mps (did you mean 'cpu'?)"),
    "wrong number among some": ("model: {name: vgg, depth: 12}", "x.yaml:3:27: model.depth: 12 is not one of 11, 13, 16, 19"),
    "too large": ("model: {name: mlp, dropout: 1.5}", "x.yaml:3:29: model.dropout: must be below 1, got 1.5"),
    "too large, inclusive": (MODEL + "augment: [{name: cutout, p: 1.5}]", "x.yaml:4:29: augment.0.p: must be at most 1, got 1.5"),
    "too small": (MODEL + "train: {epochs: 0}", "x.yaml:4:17: train.epochs: must be above 0, got 0"),
    "too small, inclusive": (MODEL + "train: {seed: -1}", "x.yaml:4:15: train.seed: must be at least 0, got -1"),
    "true for a number": (MODEL + "train: {epochs: true}", "x.yaml:4:17: train.epochs: must be a whole number above 0, got true"),
    "text for a number": (MODEL + "optimizer: {name: sgd, lr: fast}", "x.yaml:4:28: optimizer.lr: must be a number above 0, got 'fast'"),
    "quoted number": (
        MODEL + 'train: {epochs: "5"}',
        "x.yaml:4:17: train.epochs: must be a whole number above 0, got '5' (write 5, without quotes)",
    ),
    "underscored number": (MODEL + "train: {epochs: 1_000}", "x.yaml:4:17: train.epochs: must be a whole number above 0, got '1_000' (write 1000)"),
    "fraction for a whole number": (MODEL + "train: {epochs: 2.5}", "x.yaml:4:17: train.epochs: must be a whole number above 0, got 2.5"),
    "float for a whole number": (MODEL + "train: {epochs: 1e2}", "x.yaml:4:17: train.epochs: must be a whole number above 0, got 100.0 (write 100)"),
    "infinite": (MODEL + "optimizer: {name: sgd, lr: .inf}", "x.yaml:4:28: optimizer.lr: must be a finite number, got inf"),
    "not a number": (MODEL + "optimizer: {name: sgd, lr: .nan}", "x.yaml:4:28: optimizer.lr: must be a finite number, got nan"),
    "overflowing": (MODEL + "optimizer: {name: sgd, lr: 1e999}", "x.yaml:4:28: optimizer.lr: must be a finite number, got inf"),
    "beyond 64 bits": (MODEL + f"train: {{seed: {10**30}}}", "x.yaml:4:15: this whole number does not fit in 64 bits"),
    "null for a number": (MODEL + "train: {epochs: }", "x.yaml:4:17: train.epochs: must be a whole number above 0, got null"),
    "yes for true": (MODEL + "train: {baselines: yes}", "x.yaml:4:20: train.baselines: must be true or false, got 'yes' (write true)"),
    "1 for true": (MODEL + "train: {baselines: 1}", "x.yaml:4:20: train.baselines: must be true or false, got 1 (write true)"),
    "none for null": (MODEL + "train: {watch: 3, ema: none}", "x.yaml:4:16: train.watch: must be text or null, got 3 (write '3', in quotes)"),
    "none for no section": (MODEL + "train: {ema: none}", "x.yaml:4:14: train.ema: must be a section with decay, or null, got 'none' (write null)"),
    "number for a list": ("model: {name: mlp, hidden: 128}", "x.yaml:3:28: model.hidden: must be a list of whole numbers above 0 and at most 1,000,000, got 128 (write [128])"),
    "wrong element": ("model: {name: mlp, hidden: [8, x]}", "x.yaml:3:32: model.hidden.1: must be a whole number above 0 and at most 1,000,000, got 'x'"),
    "too few elements": (MODEL + "augment: [{name: affine, scale: [1]}]", "x.yaml:4:33: augment.0.scale: must be a list of 2 numbers above 0, got [1]"),
    "too many elements": (MODEL + "augment: [{name: affine, scale: [1, 2, 3]}]", "x.yaml:4:33: augment.0.scale: must be a list of 2 numbers above 0, got [1, 2, 3]"),
    "empty list": ("model: {name: cnn, blocks: []}", "x.yaml:3:28: model.blocks: must not be empty"),
    "wrong of several types": (MODEL + "loader: {workers: -1}", "x.yaml:4:19: loader.workers: must be a whole number of at least 0, or auto, got -1"),
    "misspelt of several types": (
        MODEL + "loader: {workers: Auto}",
        "x.yaml:4:19: loader.workers: must be a whole number of at least 0, or auto, got 'Auto' (did you mean 'auto'?)",
    ),
    "name for a section": ("model: mlp", "x.yaml:3:8: model: must be a section whose name is one of linear, perceptron, mlp, cnn, vgg, resnet, airbench, torchvision, timm, got 'mlp' (write {name: mlp})"),
    "null for a section": (MODEL + "train:\n", "x.yaml:4:7: train: must be a section, got null"),
    "missing section": (
        "",
        "x.yaml:1:1: missing key 'model' (a section whose name is one of linear, perceptron, mlp, cnn, vgg, resnet, airbench, torchvision, timm)",
    ),
    "missing name": ("model: {hidden: [3]}", "x.yaml:3:1: model: missing key 'name' (one of linear, perceptron, mlp, cnn, vgg, resnet, airbench, torchvision, timm)"),
    "misspelt name": ("model: {nmae: mlp}", "x.yaml:3:9: unknown key 'nmae' (did you mean 'name'?)"),
    "misspelt name that may be left out": (MODEL + "schedule: {nam: cosine}", "x.yaml:4:12: unknown key 'nam' (did you mean 'name'?)"),
    "missing key": ("model: {name: cnn, blocks: [{name: conv}]}", "x.yaml:3:29: model.blocks.0: missing key 'channels' (a whole number above 0 and at most 1,000,000)"),
    "keys that do not fit": (
        MODEL + "optimizer: {name: sgd, nesterov: true, momentum: 0}",
        "x.yaml:4:24: optimizer: nesterov needs a momentum above 0",
    ),
    "sections that do not fit": (
        MODEL + "augment: [{name: mixup}]\nloss: {name: hinge}",
        "x.yaml:5:1: mixup blends labels, which the hinge loss cannot express; use cross_entropy or bce",
    ),
    "unknown user": ("model: {name: mlp}\nfinetune: {weights: ~nobody_here/x}", "x.yaml:4:12: finetune.weights: there is no home directory for ~nobody_here"),
    "endless key": (MODEL + "k" * 200 + ": 3", "x.yaml:4:1: a key of more than 100 characters"),
    "key set twice": (MODEL + "train: {seed: 1}\ntrain: {seed: 2}", "x.yaml:5:1: key 'train' is set twice (first on line 4)"),
    "values of keys set twice": (MODEL + "train: {seed: 1}\n" * 3_000, "x.yaml:2501:8: more than 5,000 values; this is not a configuration"),
    "merge key": (MODEL + "train: {<<: {seed: 1}}", "x.yaml:4:9: merge keys (<<) are not allowed; write the keys out"),
    "anchor": (MODEL + "train: &a {seed: 1}", "x.yaml:4:8: anchors (&a) are not allowed; write the value out where it is needed"),
    "alias": (MODEL + "train: *a", "x.yaml:4:8: aliases (*a) are not allowed; write the value out"),
    "tag": (MODEL + "train: !!python/object:os.system {}", "x.yaml:4:8: tags (tag:yaml.org,2002:python/object:os.system) are not allowed; write the plain value"),
    "list as key": (MODEL + "? [a]\n: 3", "x.yaml:4:3: a key must be plain text"),
    "second document": (MODEL + "---\na: 1", "x.yaml:5:1: a second document starts here; a configuration is one document"),
    "tab": (MODEL + "train:\n\tseed: 1", "x.yaml:5:1: a tab cannot indent in YAML; use spaces\n    \tseed: 1\n    ^"),
    "missing blank after colon": (MODEL + "seed:1\ntrain: {}", "x.yaml:4:1: a key needs a ':' and a blank before its value: 'key: value'"),
    "value above a section": (MODEL + "train: x\n  seed: 1", "x.yaml:5:7: a ':' does not fit here; has the line above its 'key: value' with a space, and the right indentation?"),
    "unclosed bracket": ("model: {name: mlp, hidden: [8, 3}", "x.yaml:3:33: not valid YAML: while parsing a flow sequence: did not find expected ',' or ']'"),
    "bad first character": (MODEL + "train: {device: @cpu}", "x.yaml:4:17: a value cannot start with '@'; put it in quotes"),
    "control character": (MODEL + "train: {device: \x01}", "x.yaml:4:17: character U+0001 is not allowed in YAML"),
    "null byte": (MODEL + 'finetune: {weights: "a\\0b"}', "x.yaml:4:21: this text has a character that neither files nor terminals can hold"),
}  # fmt: skip


@pytest.mark.parametrize(("text", "answer"), MESSAGES.values(), ids=list(MESSAGES))
def test_message(write, text, answer):
    shown = complaint(write(START + text))
    first = "\n".join(shown.split("\n")[: answer.count("\n") + 1])
    assert first == answer


WHOLE_FILES = {
    "empty file": ("", "x.yaml:1:1: the file is empty; mlcli init digits writes a configuration to start from"),
    "only comments": ("# nothing\n", "x.yaml:1:1: the file is empty; mlcli init digits writes a configuration to start from"),
    "list": ("- a\n- b\n", "x.yaml:1:1: a configuration is a mapping: lines of 'key: value'"),
    "text": ("hello", "x.yaml:1:1: a configuration is a mapping: lines of 'key: value'"),
    "no task": ("data: {name: digits}", "x.yaml:1:1: missing key 'task' (one of classification, detection, regression)"),
    "misspelt task key": ("tsak: regression\ndata: {name: diabetes}\nmodel: {name: mlp}", "x.yaml:1:1: unknown key 'tsak' (did you mean 'task'?)"),
    "misspelt task": (
        "\ntask: Regresion\ndata: {name: diabetes}\nmodel: {name: mlp}",
        "x.yaml:2:7: task: 'Regresion' is not one of classification, detection, regression (did you mean 'regression'?)",
    ),
    "task of another type": ("task: [classification]", "x.yaml:1:7: task: ['classification'] is not one of classification, detection, regression"),
    "misspelt name in a mapping": (
        "task: detection\ndata: {name: voc, root: x, split_file: {trian: a.csv}}\nmodel: {name: yolo}",
        "x.yaml:2:40: data.split_file: must be a path, mapping of train, val or test to paths, or null, got a section "
        "with 'trian' (did you mean 'train'?)",
    ),
    "latin-1": (b"task: classification\nmodel: \xe9", "error: x.yaml:2: not UTF-8 text"),
    "utf-16": (VALID.encode("utf-16"), "error: x.yaml is UTF-16 text"),
    "too large": (b"#" * 1_000_001, "error: x.yaml is larger than 1,000,000 bytes; this is not a configuration"),
    "a binary file": (bytes(range(256)), "error: x.yaml:2: not UTF-8 text"),
}  # fmt: skip


@pytest.mark.parametrize(("content", "answer"), WHOLE_FILES.values(), ids=list(WHOLE_FILES))
def test_message_for_a_whole_file(write, content, answer):
    assert complaint(write(content)).split("\n")[0] == answer


def test_utf8_byte_order_mark_and_windows_line_ends_are_read(write):
    expected = Experiment.load(write(VALID)).config
    assert Experiment.load(write(b"\xef\xbb\xbf" + VALID.replace("\n", "\r\n").encode())).config == expected


def test_missing_file_and_folder(tmp_path):
    assert complaint(tmp_path / "x.yaml").startswith(f"error: there is no file {tmp_path / 'x.yaml'}\nfix:")
    assert "is a folder, not a YAML file" in complaint(tmp_path)
    (tmp_path / "file").touch()
    assert "cannot read" in complaint(tmp_path / "file" / "x.yaml")


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root reads everything")
def test_unreadable_file(write):
    path = write(VALID)
    path.chmod(stat.S_IWUSR)
    assert "cannot read x.yaml: Permission denied" in complaint(path)


def test_all_mistakes_are_told_at_once_sorted_by_line(write):
    text = (
        START.replace("digits", "digts")
        + "model: {name: mlp, hiden: 3}\nloss: 3\ntrain: {epochs: 0, lr: 1}\ntrain: {}\n"
    )
    lines = [line for line in complaint(write(text), "loader.cache=tape").split("\n") if not line.startswith(" ")]
    places = [line.split(": ")[0] for line in lines]
    assert places == ["x.yaml:2:14", "x.yaml:3:20", "x.yaml:3:27", "x.yaml:4:7", "x.yaml:5:17", "x.yaml:5:20", "x.yaml:6:1",
                      "override 1 (loader.cache=tape)"]  # fmt: skip


def places(shown: str) -> list[str]:
    """Line and column of each mistake."""
    return [line.split(": ")[0].removeprefix("x.yaml:") for line in shown.split("\n") if line.startswith("x.yaml")]


def test_a_wrong_name_hides_no_other_mistake(write):
    text = (
        "model: {name: mpl, hiden: [-3], dropout: 7}\noptimizer: {name: sdg, lr: -1}\nloss: {nmae: hinge, margin: -1}"
    )
    assert places(complaint(write(START + text))) == ["3:15", "3:20", "3:28", "3:42", "4:19", "4:28", "5:8", "5:29"]


def test_a_name_that_stands_for_nothing_hides_no_mistake_that_holds_for_all_there_are(write):
    shown = complaint(write(START + MODEL + "optimizer: {name: zzz, lr: -1, momentum: -1}\ntrain: {epochs: 0}"))
    assert places(shown) == ["4:19", "4:28", "5:17"]


@pytest.mark.parametrize(
    ("task", "first"),
    [("taks: clasification", ["1:1", "1:7"]), ("task: clasification", ["1:7"]), ("task: zzz", ["1:7"]), ("", ["2:1"])],
)
def test_a_misspelt_task_hides_no_other_mistake(write, task, first):
    text = f"{task}\ndata: {{name: digits}}\nmodel: {{name: mlp, dropout: 7}}\ntrain: {{epochs: 0, seed: x}}\n"
    expected = [*first, *(["3:29"] if "clas" in task else []), "4:17", "4:26"]
    assert places(complaint(write(text))) == expected


def test_a_place_is_compared_without_its_text():
    """Otherwise each of a file's mistakes would hash the whole of it."""
    assert Origin("x.yaml", ("a: 1",)) == Origin("x.yaml", ("b: 2",))
    assert hash(Origin("x.yaml", ("a: 1",))) == hash(Origin("x.yaml", ("b: 2",)))


def test_very_many_mistakes_are_cut(write):
    unknown = "".join(f"  k{i}: 1\n" for i in range(SHOWN_PROBLEMS + 3))
    shown = complaint(write(START + "model:\n  name: mlp\n" + unknown))
    assert shown.endswith("\nand 3 more")
    assert shown.count("unknown key") == SHOWN_PROBLEMS


def test_thousands_of_mistakes_are_counted_and_the_first_are_told(write):
    shown = complaint(write(START + MODEL + "".join(f"trai{i}: 1\n" for i in range(4_000))))
    assert shown.startswith("x.yaml:4:1: unknown key 'trai0' (did you mean 'train'?)")
    assert shown.endswith(f"\nand {4_000 - SHOWN_PROBLEMS} more")
    assert shown.count("did you mean 'train'?") == SHOWN_PROBLEMS


def test_missing_key_is_not_told_twice_when_it_is_misspelt(write):
    assert complaint(write(START + "modle: {name: mlp}")).count("model") == 1


def test_long_lines_are_cut_around_the_caret(write):
    padding = ", ".join(["1"] * 200)
    _, line, caret = complaint(write(START + f"model: {{name: mlp, hidden: [{padding}, x, {padding}]}}")).split("\n")
    assert len(line) <= 104
    assert line[caret.index("^")] == "x"


def test_errors_survive_pickling(write):
    with pytest.raises(ConfigErrors) as caught:
        Experiment.load(write(START))
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


# --- overrides -------------------------------------------------------------------------------------------------------


def test_overrides_change_values(write):
    overrides = ["model.hidden=[256,128]", "optimizer.lr=1e-3", "augment=[{name: cutout}]", "augment.0.p=0.3"]
    overrides += [
        "train.ema.decay=0.5",
        "train.epochs=5",
        "train.epochs=7",
        "train.early_stopping=",
        "model.hidden.1=2",
    ]
    config = Experiment.load(write(VALID), overrides).config
    assert config.model.hidden == (256, 2)
    assert (config.optimizer.lr, config.augment[0].p, config.train.ema.decay) == (0.001, 0.3, 0.5)
    assert (config.train.epochs, config.train.early_stopping) == (7, None)


OVERRIDES = {
    "unknown key": ("model.hiden=[256]", "override 1 (model.hiden=[256]): unknown key 'hiden' (did you mean 'hidden'?)"),
    "unknown section": ("optimzer.lr=3", "override 1 (optimzer.lr=3): unknown key 'optimzer' (did you mean 'optimizer'?)"),
    "no equals sign": ("epochs", "override 1 (epochs): an override is written key.sub=value, such as optimizer.lr=0.01"),
    "empty key": ("=3", "override 1 (=3): an override is written key.sub=value, such as optimizer.lr=0.01"),
    "empty part": ("model..x=3", "override 1 (model..x=3): an override is written key.sub=value, such as optimizer.lr=0.01"),
    "out of range": ("train.epochs=0", "override 1 (train.epochs=0): train.epochs: must be above 0, got 0"),
    "broken value": ("model.hidden=[1", "override 1 (model.hidden=[1): not valid YAML: while parsing a flow sequence: did not find expected ',' or ']'"),
    "into a value": ("model.name.x=1", "override 1 (model.name.x=1): model.name is the value 'mlp', so nothing can be set inside it"),
    "beyond a list": ("model.hidden.2=1", "override 1 (model.hidden.2=1): model.hidden is a list: '2' is none of its elements (0 to 1)"),
    "name in a list": ("model.hidden.x=1", "override 1 (model.hidden.x=1): model.hidden is a list: 'x' is none of its elements (0 to 1)"),
    "section without name": ("augment=[{p: 1}]", "override 1 (augment=[{p: 1}]): augment.0: missing key 'name' (one of random_crop, random_resized_crop, horizontal_flip"),
    "task": ("task=segmentation", "override 1 (task=segmentation): task: 'segmentation' is not one of classification, detection, regression"),
    "not UTF-8": ("train.watch=\udcff", "override 1 (train.watch=?): not UTF-8 text"),
    "alias": ("train.watch=*x", "override 1 (train.watch=*x): aliases (*x) are not allowed; write the value out"),
}  # fmt: skip


@pytest.mark.parametrize(("override", "answer"), OVERRIDES.values(), ids=list(OVERRIDES))
def test_message_for_an_override(write, override, answer):
    assert complaint(write(VALID), override).split("\n")[0].startswith(answer)


def test_numbers_are_those_whose_products_float32_holds_but_for_values_of_the_data(write):
    path = write(VALID)
    for number in ("optimizer.clip_value=1e16", "schedule.warmup_epochs=1e300", "loss.class_weights=[1.0, 1e16]",
                   "optimizer.lr=5e-324"):  # fmt: skip
        with pytest.raises(ConfigError, match=r"is too (large|small): numbers here are 0, or in size 1e-30 to 1e\+15"):
            Experiment.load(path, [number])
    assert Experiment.load(path, ["optimizer.clip_value=1e15"]).config.optimizer.clip_value == 1e15
    table = ["data={name: csv, file: t.csv, target: y}", "data.missing_values=[1e20, -9.96921e36]"]
    assert Experiment.load(path, table).config.data.missing_values == (1e20, -9.96921e36)


def test_override_of_a_name_tells_which_keys_no_longer_fit(write):
    first, line, caret = complaint(write(VALID), "optimizer.name=adam").split("\n")
    assert first == (
        "x.yaml:5:33: key 'momentum' does not fit optimizer 'adam', which override 1 (optimizer.name=adam) chose; it "
        "belongs to sgd, rmsprop (remove it, or replace the whole section: 'optimizer={name: adam}')"
    )
    assert line[caret.index("^") :].startswith("momentum")
    assert Experiment.load(Path("x.yaml"), ["optimizer={name: adam}"]).config.optimizer.name == "adam"


def test_overridden_mistake_in_the_file_is_no_mistake(write):
    path = write(VALID.replace("epochs: 20", "epochs: many"))
    assert Experiment.load(path, ["train.epochs=3"]).config.train.epochs == 3


def test_paths_are_relative_to_the_yaml(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sub").mkdir()
    path = Path("sub/x.yaml")
    path.write_text("task: classification\ndata: {name: folder, root: pictures}\nmodel: {name: mlp}\n")
    assert Experiment.load(path).config.data.root == tmp_path / "sub" / "pictures"
    assert Experiment.load(path, ["data.root=../else"]).config.data.root == tmp_path / "else"
    assert Experiment.load(path, ["data.root=/abs"]).config.data.root == Path("/abs")


# --- attacks ---------------------------------------------------------------------------------------------------------

ATTACKS = {
    "billion laughs": "a: &a [x]\n" + "".join(f"{chr(98 + i)}: &{chr(98 + i)} [*{chr(97 + i)}]\n" for i in range(20)),
    "recursive alias": "&a {task: *a}",
    "recursive list": "task: &a [*a]",
    "python object": "task: !!python/object/apply:os.system ['touch hacked']",
    "python name": "task: !!python/name:os.system",
    "local tag": "task: !Thing {}",
    "set": "task: !!set {a, b}",
    "binary": "task: !!binary aGVsbG8=",
    "3,000 brackets": "task: " + "[" * 3000,
    "3,000 braces": "task: " + "{a: " * 3000,
    "deep and closed": "task: " + "[" * 60 + "]" * 60,
    "deep blocks": "".join(" " * i + "a:\n" for i in range(900)),
    "half a megabyte of brackets": "[" * 500_000,
    "half a megabyte of list": "task: [" + "1," * 250_000 + "1]",
    "many keys": "".join(f"k{i}: {{a: 1, b: [2, 3]}}\n" for i in range(30_000)),
    "a long number": "task: " + "9" * 900_000,
    "a long float": "task: 1e" + "9" * 900_000,
    "a long word": "task: " + "x" * 900_000,
    "a long key": "x" * 1000 + ": 1",
    "many documents": "---\na: 1\n" * 10_000,
    "complex keys": "? {a: {b: c}}\n: 1",
    "merge of itself": "a: &a {<<: *a}",
    "directive": "%YAML 9.9\n---\ntask: x",
    "terminal escapes": "task: \x1b[31mred",
    "quoted terminal escapes": 'task: "\\x1b[31mred"',
    "terminal escapes in a key": '"\\x1b[31mred": 1',
    "many quotes": "task: '" + "''" * 400_000,
    "comments": "#" * 999_999,
    "indented comments": "task:\n" + " # x\n" * 100_000,
}


@pytest.mark.parametrize("text", ATTACKS.values(), ids=list(ATTACKS))
def test_attack_ends_in_a_short_config_error(write, text):
    shown = complaint(write(text))
    assert len(shown) < 3000
    assert "\x1b" not in shown
    assert not Path("hacked").exists()


# --- mutations -------------------------------------------------------------------------------------------------------


def _sections(plain: Any, path: tuple = ()) -> list[tuple]:
    """Paths of all values in nested plain data."""
    items = plain.items() if isinstance(plain, dict) else enumerate(plain) if isinstance(plain, list) else ()
    return [inner for key, value in items for inner in [(*path, key), *_sections(value, (*path, key))]]


def _at(plain: Any, path: tuple) -> Any:
    for key in path:
        plain = plain[key]
    return plain


JUNK = [None, True, -1, 0, 1e30, float("nan"), "", "x", "ü\u2028✓", "1e-3", [], {}, [None], {"name": None}, [[1]], 2**62,
        {"name": "sgd"}, [{"name": "cutout"}], "a" * 10_000]  # fmt: skip


def _mutate(plain: dict, rng: random.Random) -> None:
    path = rng.choice(_sections(plain))
    parent, key = _at(plain, path[:-1]), path[-1]
    match rng.randrange(5):
        case 0:
            del parent[key]
        case 1:
            parent[key] = rng.choice(JUNK)
        case 2 if isinstance(parent, dict):
            parent[rng.choice(["", "x", "näme", "name ", "0", "a.b", str(key).upper()])] = parent.pop(key)
        case 3 if isinstance(parent, dict):
            parent[rng.choice(["x", "name", "lr", "extra"])] = rng.choice(JUNK)
        case _:
            parent[key] = [parent[key]]


def test_any_mutation_is_valid_or_a_config_error(write):
    rng = random.Random(0)
    outcomes = {"valid": 0, "refused": 0}
    for _ in range(300):
        plain = Experiment.load(write(VALID), ["augment=[{name: cutout}]", "train.ema={}"]).plain()
        for _ in range(rng.choice([1, 1, 2, 4])):
            _mutate(plain, rng)
        text = dump(plain)
        if rng.random() < 0.2:
            cut = rng.randrange(len(text))
            text = text[:cut] + rng.choice(["\t", "{", "]", ":", "&a", "'", "\n", "é", "  - "]) + text[cut:]
        try:
            experiment = Experiment.load(write(text))
            assert Experiment.from_plain(experiment.plain()).config == experiment.config
        except ConfigError as error:
            message = str(error)
        else:
            message = ""
        outcomes["refused" if message else "valid"] += 1
        assert not message or message.startswith("x.yaml:")
    assert min(outcomes.values()) > 20, outcomes


def test_gpu_means_cuda_and_not_the_nearer_cpu(write):
    with pytest.raises(ConfigErrors, match="did you mean 'cuda'"):
        Experiment.load(write(VALID), ["train.device=gpu"])


def _one_letter_typo(word: str, rng: random.Random) -> str:
    i = rng.randrange(len(word))
    letter = rng.choice("abcdefghijklmnopqrstuvwxyz")
    edits = [word[:i] + word[i + 1 :], word[:i] + letter + word[i + 1 :], word[:i] + letter + word[i:]]
    return rng.choice([*edits, word[:i] + word[i : i + 2][::-1] + word[i + 2 :]])


def test_one_letter_typos_get_the_right_suggestion(write):
    rng = random.Random(0)
    plain = Experiment.load(
        write(VALID), ["train.ema={}", "train.early_stopping={}", "augment=[{name: affine}]"]
    ).plain()
    keys = [path for path in _sections(plain) if isinstance(path[-1], str)]
    tried, right = 0, 0
    while tried < 250:
        path = rng.choice(keys)
        typo = _one_letter_typo(path[-1], rng)
        mutated = Experiment.from_plain(plain).plain()
        section = _at(mutated, path[:-1])
        if not typo or typo in section:
            continue
        section[typo] = section.pop(path[-1])
        tried += 1
        right += f"unknown key '{typo}' (did you mean '{path[-1]}'?)" in complaint(write(dump(mutated)))
    assert right / tried >= 0.95


# --- start -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", [VALID, START + "model: {name: mpl}"], ids=["valid", "refused"])
def test_reading_a_config_loads_nothing_heavy(write, text):
    program = (
        "import sys; from pathlib import Path; from mlcli.experiment import Experiment; from mlcli.errors import ConfigError\n"
        "try: Experiment.load(Path('x.yaml'))\n"
        "except ConfigError as error: print(error)\n"
        "print([name for name in ('torch', 'numpy', 'PIL', 'sklearn') if name in sys.modules])"
    )
    write(text)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.split("\n")[-2] == "[]"
    assert ("did you mean 'mlp'?" in done.stdout) == (text != VALID)
