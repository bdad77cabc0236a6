"""Tables: encoding against scikit-learn's, statistics from training rows only, and every fault with its lines."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.impute import SimpleImputer
from sklearn.preprocessing import OneHotEncoder

from mlcli.data.config import FeatureSelection, TableFile
from mlcli.data.info import DataInfo
from mlcli.data.inputs import RowInputs
from mlcli.data.sources.build import build_source
from mlcli.data.sources.columns import read_column, read_number
from mlcli.data.sources.csv_file import read_csv
from mlcli.data.sources.rows import prepare_rows
from mlcli.errors import DataError

COLOURS = ("blue", "green", "red")


def rows(count: int = 60, seed: int = 0) -> list[list[str]]:
    """length, colour, code, answer: some lengths and colours are missing."""
    random = np.random.default_rng(seed)
    made = []
    for number in range(count):
        length = "" if number % 9 == 4 else f"{random.normal(5, 2):.3f}"
        colour = "NA" if number % 11 == 3 else COLOURS[number % 3]
        made.append([length, colour, str(number % 2), ("yes", "no", "maybe")[number % 3]])
    return made


HEADER = ["length", "colour", "code", "answer"]


def write(path: Path, lines: list[list[str]], *, header=HEADER, delimiter=",", encoding="utf-8") -> Path:
    path.write_text("\n".join(delimiter.join(cells) for cells in [header, *lines]) + "\n", encoding=encoding)
    return path


def build(file: Path, *, target="answer", regression=False, **options):
    return build_source(TableFile(name="csv", file=file, target=target, **options), regression=regression)


def fault(file: Path, **options) -> DataError:
    with pytest.raises(DataError) as caught:
        build(file, **options)
    assert caught.value.code == 4
    assert caught.value.where
    return caught.value


def lines_of(samples) -> list[int]:
    return [int(samples.name(index).rsplit(":", 1)[1]) for index in range(len(samples))]


def all_inputs(samples) -> torch.Tensor:
    return samples.read(np.arange(len(samples)))


# --- encoding --------------------------------------------------------------------------------------------------------


def test_encoding_agrees_with_scikit_learn(tmp_path):
    table = rows()
    source = build(write(tmp_path / "t.csv", table), categorical=("code",))
    train = [line - 2 for line in lines_of(source.splits["train"])]
    lengths = np.array([[float(row[0]) if row[0] else np.nan] for row in table])
    texts = np.array([[row[1], row[2]] for row in table])
    imputer = SimpleImputer(strategy="median").fit(lengths[train])
    encoder = OneHotEncoder(categories=[list(COLOURS), ["0", "1"]], handle_unknown="ignore", sparse_output=False)
    encoder.fit(np.array([["blue", "0"], ["green", "1"], ["red", "1"]]))
    expected = np.concatenate([imputer.transform(lengths), encoder.transform(texts)], axis=1)
    for samples in source.splits.values():
        places = [line - 2 for line in lines_of(samples)]
        assert np.allclose(all_inputs(samples), expected[places])
        answers = [source.info.class_names[label] for label in samples.targets]
        assert answers == [table[place][3] for place in places]
    assert source.info.class_names == ("maybe", "no", "yes")
    assert source.info.preparation["features"] == [
        "length",
        "colour=blue",
        "colour=green",
        "colour=red",
        "code=0",
        "code=1",
    ]


def test_statistics_are_of_the_training_split_and_leave_one_hot_alone(tmp_path):
    source = build(write(tmp_path / "t.csv", rows()))
    train = all_inputs(source.splits["train"]).double()
    assert source.info.mean[0] == pytest.approx(train[:, 0].mean().item(), rel=1e-5)
    assert source.info.std[0] == pytest.approx(train[:, 0].std(correction=0).item(), rel=1e-5)
    assert source.info.mean[1:4] == (0.0, 0.0, 0.0)
    assert source.info.std[1:4] == (1.0, 1.0, 1.0)


def test_nothing_is_learned_from_the_other_splits(tmp_path):
    """Extreme values, and a category, in the test split only: neither median, statistics nor features know of them."""
    table = [[*row, "train"] for row in rows(40)] + [["9999", "purple", "1", row[3], "test"] for row in rows(6)]
    header = [*HEADER, "part"]
    with_test = build(write(tmp_path / "a.csv", table, header=header), split_column="part")
    alone = build(write(tmp_path / "b.csv", table[:40], header=header), split_column="part")
    assert with_test.info == alone.info
    assert all_inputs(with_test.splits["test"])[:, 1:4].sum() == 0
    assert any("'purple'" in note for note in with_test.notes)
    assert "part" not in str(with_test.info.preparation)


def test_gaps_are_told(tmp_path):
    notes = " ".join(build(write(tmp_path / "t.csv", rows())).notes)
    assert "column 'length': 7 missing values become the training median" in notes
    assert "column 'colour': 6 missing values are all zeros" in notes


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_delimiters_and_byte_order_marks(tmp_path, delimiter, encoding):
    plain = build(write(tmp_path / "a.csv", rows()))
    other = build(write(tmp_path / "b.csv", rows(), delimiter=delimiter, encoding=encoding))
    assert other.info == plain.info


def test_delimiters_in_names_of_columns(tmp_path):
    (tmp_path / "t.csv").write_text("size (s;m;l;xl),answer\n" + "m,yes\nl,no\n" * 30)
    assert read_csv(tmp_path / "t.csv").header == ["size (s;m;l;xl)", "answer"]
    (tmp_path / "t.csv").write_text("width, mm, net;answer\n" + "1,5;yes\n2,5;no\n" * 30)
    assert read_csv(tmp_path / "t.csv").header == ["width, mm, net", "answer"]


def test_quotes_blank_lines_and_line_ends(tmp_path):
    text = 'x,"a, b",y\r\n1,"p, ""q""",no\r\n\r\n 2 ,"two\nlines",yes\r\n' + "3,r,no\r\n4,r,yes\r\n"
    (tmp_path / "t.csv").write_bytes(text.encode())
    source = build(tmp_path / "t.csv", target="y", val=0, test=0)
    assert source.info.preparation["columns"][1]["values"] == ['p, "q"', "r", "two\nlines"]
    assert all_inputs(source.splits["train"])[:, 0].tolist() == [1, 2, 3, 4]
    assert lines_of(source.splits["train"]) == [2, 5, 6, 7]


def test_whole_numbers_as_classes_are_sorted_by_value(tmp_path):
    table = [[str(number), str((number % 3) * 5 + 5)] for number in range(30)]
    source = build(write(tmp_path / "t.csv", table, header=["x", "y"]), target="y")
    assert source.info.class_names == ("5", "10", "15")


def test_dropped_columns_are_not_needed_to_predict(tmp_path):
    source = build(write(tmp_path / "t.csv", rows()), drop=("length",))
    assert [column["name"] for column in source.info.preparation["columns"]] == ["colour", "code"]


@pytest.mark.parametrize("method", ["mutual_info", "univariate"])
def test_selection_finds_the_telling_column(tmp_path, method):
    random = np.random.default_rng(0)
    table = [[*(f"{value:.4f}" for value in random.normal(size=4)), "7"] for _ in range(200)]
    table = [[*row, "up" if float(row[2]) > 0 else "down"] for row in table]
    header = ["a", "b", "c", "d", "constant", "answer"]
    select = FeatureSelection(method=method, keep=1)
    source = build(write(tmp_path / "t.csv", table, header=header), select=select)
    assert source.info.preparation["features"] == ["c"]
    assert [column["name"] for column in source.info.preparation["columns"]] == ["c"]
    assert prepare_rows(source.info.preparation, [{"c": "1.5"}]).tolist() == [[1.5]]
    too_many = FeatureSelection(method=method, keep=6)
    assert "there are 5" in fault(tmp_path / "t.csv", select=too_many).what


def test_regression(tmp_path):
    table = [[f"{number}", f"{2.5 * number - 7}"] for number in range(40)]
    source = build(write(tmp_path / "t.csv", table, header=["x", "price"]), target="price", regression=True)
    train = source.splits["train"]
    assert train.targets.dtype == torch.float32
    assert torch.allclose(train.targets, 2.5 * all_inputs(train)[:, 0] - 7)
    assert source.info.target == "price"
    assert source.info.class_names == ()
    assert source.info.preparation["target_mean"] == pytest.approx(train.targets.mean().item())
    assert source.info.preparation["target_std"] == pytest.approx(train.targets.std(correction=0).item())


# --- one-hot labels --------------------------------------------------------------------------------------------------


def one_hot(path: Path) -> Path:
    table = [[str(n % 7), *(str(int(n % 3 == c)) for c in range(3)), str(int(n % 5 == 0))] for n in range(60)]
    return write(path, table, header=["x", "cat", "dog", "owl", "indoors"])


def test_one_hot_labels_are_one_label(tmp_path):
    source = build(one_hot(tmp_path / "t.csv"), target=("cat", "dog", "owl"))
    assert source.info.class_names == ("cat", "dog", "owl")
    assert source.info.preparation["features"] == ["x", "indoors"]
    for samples in source.splits.values():
        assert samples.targets.tolist() == [(line - 2) % 3 for line in lines_of(samples)]


@pytest.mark.parametrize("regression", [False, True])
def test_one_column_of_a_one_hot_label_is_refused_as_the_others_give_it_away(tmp_path, regression):
    file = one_hot(tmp_path / "t.csv")
    error = fault(file, target="dog", regression=regression)
    assert "'dog' is one of 3 columns that together are one label" in error.what
    assert "data.target=[cat, dog, owl]" in error.fix
    assert ("task: classification" in error.fix) == regression
    alone = build(file, target="dog", drop=("cat", "owl"), regression=regression)
    assert alone.info.preparation["features"] == ["x", "indoors"]
    assert build(file, target="indoors").info.preparation["features"] == ["x", "cat", "dog", "owl"]


def test_a_row_of_no_class_or_of_two_is_told(tmp_path):
    table = [["0", "1", "0", "0"], ["1", "0", "0", "0"], ["2", "1", "1", "0"], *[["3", "0", "0", "1"]] * 9]
    file = write(tmp_path / "t.csv", table, header=["x", "cat", "dog", "owl"])
    assert "line 3, line 4" in fault(file, target=("cat", "dog", "owl")).what


def test_two_values_to_predict_as_amounts_are_told(tmp_path):
    source = build(one_hot(tmp_path / "t.csv"), target="indoors", regression=True)
    assert any("has two values only, 0 and 1, which may be classes" in note for note in source.notes)


# --- equal rows ------------------------------------------------------------------------------------------------------


def places_of(source) -> dict[str, set[tuple]]:
    return {
        split: {(*row, target) for row, target in zip(all_inputs(s).tolist(), s.targets.tolist(), strict=True)}
        for split, s in source.splits.items()
    }


@pytest.mark.parametrize("given", [False, True])
def test_equal_rows_are_kept_brought_together_or_dropped(tmp_path, given):
    table = [[str(n % 40), str(n % 2), "test" if n >= 100 else "train"] for n in range(120)]
    file = write(tmp_path / "t.csv", table, header=["x", "y", "part"])
    options = {"target": "y", **({"split_column": "part"} if given else {"drop": ("part",)})}
    kept, together, dropped = (build(file, duplicates=way, **options) for way in ("keep", "one_split", "drop"))
    places = places_of(kept)
    assert places["train"] & places["test"]
    for source, count in ((kept, 120), (together, 120), (dropped, 40)):
        assert sum(map(len, source.splits.values())) == count
    for source in (together, dropped):
        places = places_of(source)
        assert not places["train"] & places["test"]
    if given:  # what is held out stays held out
        assert places["test"] == places_of(kept)["test"]


@pytest.mark.parametrize("way", ["one_split", "drop"])
def test_copies_that_would_empty_a_given_split_are_refused(tmp_path, way):
    table = [[str(n % 40), str(n % 2), "test" if n >= 40 else "train"] for n in range(120)]
    file = write(tmp_path / "t.csv", table, header=["x", "y", "part"])
    error = fault(file, target="y", split_column="part", duplicates=way)
    assert "data.duplicates leaves nothing in train" in error.what
    assert "data.duplicates=keep" in error.fix


# --- numbers ---------------------------------------------------------------------------------------------------------


def shifted(path: Path, by: int, times: str = "") -> Path:
    """Seconds of a minute, as they are or since a time long ago, and a class and an amount they determine."""
    table = [[f"{by + n % 60}{times}", "late" if n % 60 > 29 else "early", f"{by + n % 60}.5"] for n in range(240)]
    return write(path, table, header=["t", "y", "amount"])


def test_columns_far_from_zero_keep_what_varies(tmp_path):
    near = build(shifted(tmp_path / "near.csv", 0), target="y", drop=("amount",))
    far = build(shifted(tmp_path / "far.csv", 1_700_000_000), target="y", drop=("amount",))
    assert "offsets" not in near.info.preparation
    for split, samples in far.splits.items():
        moved = all_inputs(near.splits[split]) - all_inputs(samples)
        assert (moved == moved[0]).all()
    assert far.info.std == pytest.approx(near.info.std)
    first, second = prepare_rows(far.info.preparation, [{"t": "1700000007"}, {"t": "1700000008"}]).tolist()
    assert second[0] - first[0] == 1


def test_a_model_saved_without_offsets_gets_its_data_without(tmp_path):
    far = build(shifted(tmp_path / "far.csv", 2**24 + 2**20), target="amount", drop=("y",), regression=True)
    before = {key: far.info.preparation[key] for key in ("columns", "features", "target_mean", "target_std")}
    assert set(far.info.preparation) - set(before) == {"offsets", "target_offset"}
    as_then = far.as_in(replace(far.info, preparation=before)).splits["test"]
    written = torch.tensor([2**24 + 2**20 + (line - 2) % 60 for line in lines_of(as_then)], dtype=float)
    assert torch.equal(all_inputs(as_then)[:, 0], written.float())
    assert torch.equal(as_then.targets, (written + 0.5).float())


def test_columns_of_tiny_numbers_are_standardised(tmp_path):
    source = build(shifted(tmp_path / "t.csv", 0, times="e-12"), target="y", drop=("amount",))
    assert source.info.std[0] == pytest.approx(17e-12, rel=0.05)


@pytest.mark.parametrize("text", ["1_2", "١٢", "\uff12", "²", "0x1F", "", "-", "--1"])
def test_what_is_no_number(text):
    assert np.isnan(read_number(text))


@pytest.mark.parametrize("labels", [("--1", "2"), ("---2", "-2"), ("7" * 5000, "8"), ("١٢", "٣")])
def test_labels_that_look_like_numbers(tmp_path, labels):
    table = [[str(number), labels[number % 2]] for number in range(30)]
    source = build(write(tmp_path / "t.csv", table, header=["x", "y"]), target="y")
    assert source.info.class_names == tuple(sorted(labels))


# --- new rows --------------------------------------------------------------------------------------------------------


def test_new_rows_are_encoded_as_the_training_rows_were(tmp_path):
    table = rows()
    source = build(write(tmp_path / "t.csv", table))
    stored = DataInfo.from_plain(source.info.to_plain()).preparation
    samples = source.splits["test"]
    new = [dict(zip(HEADER, table[line - 2], strict=True)) for line in lines_of(samples)]
    assert np.array_equal(prepare_rows(stored, new), all_inputs(samples).numpy())
    unseen = prepare_rows(stored, [{"code": "", "colour": "purple", "length": " "}])
    median = stored["columns"][0]["missing"]
    assert unseen[0].tolist() == pytest.approx([median, 0, 0, 0, stored["columns"][2]["missing"]])


def test_new_rows_with_faults(tmp_path):
    preparation = build(write(tmp_path / "t.csv", rows())).info.preparation
    with pytest.raises(DataError, match="'length'"):
        prepare_rows(preparation, [{"colour": "red", "code": "1"}])
    with pytest.raises(DataError, match="'long' in column 'length' is not a finite number") as caught:
        prepare_rows(preparation, [{"length": text, "colour": "", "code": ""} for text in ("1", "long", "inf")])
    assert caught.value.where == "rows 2, 3"


# --- faults ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("header", ["a,answer", "a,answer,,"])
def test_delimiters_at_the_ends_of_lines(tmp_path, header):
    (tmp_path / "t.csv").write_text(f"{header}\n" + "1,yes,,\n2,no,,\n" * 30)
    source = build(tmp_path / "t.csv")
    assert source.info.input_shape == (1,)
    assert any("a delimiter ends each line" in note for note in source.notes)
    (tmp_path / "t.csv").write_text(f"{header}\n" + "1,yes,,\n2,no,,\n" * 30 + "3,no,x,\n")
    assert fault(tmp_path / "t.csv").what


def test_columns_of_new_rows_that_are_called_otherwise(tmp_path):
    stored = build(write(tmp_path / "t.csv", rows())).info.preparation
    with pytest.raises(DataError, match="are missing: 'length', 'colour', 'code'") as caught:
        prepare_rows(stored, [{"Length": "1", "color": "red", "size": "7"}])
    assert caught.value.where == "columns found: 'Length', 'color', 'size'"
    assert caught.value.fix.startswith("rename 'Length' to 'length', 'color' to 'colour', or add them")


def test_ragged_rows(tmp_path):
    table = rows()
    table[3] = table[3][:2]
    table[8] = [*table[8], "extra"]
    error = fault(write(tmp_path / "t.csv", table))
    assert "line 5: 2 cells, line 10: 5 cells" in error.what


@pytest.mark.parametrize("cell", ["long", "inf", "-inf", "1e39", "3,5"])
def test_cells_that_are_no_finite_numbers(tmp_path, cell):
    table = rows()
    table[5][0] = table[20][0] = cell
    error = fault(write(tmp_path / "t.csv", table, delimiter=";"))
    assert "column 'length'" in error.what
    assert f"line 7: '{cell}', line 22: '{cell}'" in error.what
    assert "data.categorical=[length]" in error.fix


def test_column_of_different_texts(tmp_path):
    table = [[f"name {number}", *row[1:]] for number, row in enumerate(rows())]
    error = fault(write(tmp_path / "t.csv", table))
    assert "column 'length' has 42 different texts in 42 rows" in error.what
    assert "data.drop=[length]" in error.fix
    assert len(build(tmp_path / "t.csv", categorical=("length",)).info.mean) > 42


def column_of(path: Path, cells: list[str], delimiter: str = ",", **options):
    """One column of these cells over and over, and an answer; quoted where the cells hold the delimiter."""
    lines = [f'"{cells[n % len(cells)]}"{delimiter}{("yes", "no")[n % 2]}' for n in range(60)]
    path.write_text("\n".join([f"x{delimiter}answer", *lines]) + "\n")
    return build(path, **options)


@pytest.mark.parametrize(
    ("cells", "values", "options"),
    [
        (["3,1", "4,25", "12"], [3.1, 4.25, 12], {}),
        (["3,125", "4,250"], [3.125, 4.25], {"delimiter": ";"}),
        (["3,125", "4,250"], [3.125, 4.25], {"decimal": "comma"}),
        (["3,125", "4,250"], [3125, 4250], {"decimal": "point"}),
        (["1.234", "2.345"], [1.234, 2.345], {"delimiter": ";"}),
        (["1.234", "2.345"], [1234, 2345], {"decimal": "comma"}),
        (["1.234,5", "7"], [1234.5, 7], {}),
        (["1,234,567", "8"], [1_234_567, 8], {}),
        (["3.1%", "40 %", "-2%"], [3.1, 40, -2], {}),
        (["$3.10", "$1,200.50", "-$2"], [3.1, 1200.5, -2], {}),
        (["1'234.5", "8"], [1234.5, 8], {}),
        (["1,25,000", "12,34,56,789"], [125_000, 123_456_789], {}),
        (["0,125", "0,250"], [0.125, 0.25], {}),
        (["0.125", "0.250"], [0.125, 0.25], {"decimal": "comma"}),
        (["1,5e+01", "2,25e0"], [15, 2.25], {"delimiter": ";"}),
        (["\u22121.5", "2"], [-1.5, 2], {}),
    ],
)
def test_numbers_as_people_write_them(tmp_path, cells, values, options):
    source = column_of(tmp_path / "t.csv", cells, **options)
    assert source.info.input_shape == (1,)
    found = {round(value, 4) for samples in source.splits.values() for value in all_inputs(samples)[:, 0].tolist()}
    assert sorted(found) == pytest.approx(sorted(values))
    stored = DataInfo.from_plain(source.info.to_plain()).preparation
    assert prepare_rows(stored, [{"x": cell} for cell in cells])[:, 0].tolist() == pytest.approx(values)


@pytest.mark.parametrize("word", ["NaN", "-", "#N/A", "unknown", ".", "?", "null", "n/a", "<NA>"])
def test_words_for_a_gap_do_not_make_categories_of_numbers(tmp_path, word):
    source = column_of(tmp_path / "t.csv", [word, "1.5", word, "2.5", word])
    assert source.info.input_shape == (1,)
    assert np.isfinite(prepare_rows(source.info.preparation, [{"x": word}, {"x": "1.5"}])).all()


def test_among_categories_a_dash_is_a_category(tmp_path):
    source = column_of(tmp_path / "t.csv", ["red", "-", "unknown"])
    assert source.info.preparation["features"] == ["x=-", "x=red", "x=unknown"]


def test_commas_that_can_mean_two_things_are_asked_about(tmp_path):
    with pytest.raises(DataError, match="'3,125'") as caught:
        column_of(tmp_path / "t.csv", ["3,125", "4,250", "100"])
    assert "3,125 is 3.125 or 3125" in caught.value.what
    assert caught.value.fix == "data.decimal=comma or data.decimal=point"
    with pytest.raises(DataError, match=r"1\.234 is 1234 or 1\.234"):
        column_of(tmp_path / "t.csv", ["2,5", "1.234", "3,7"])


def test_a_target_with_decimal_commas_is_read_where_the_config_says_so(tmp_path):
    table = [[str(number), f"{number},5"] for number in range(40)]
    file = write(tmp_path / "t.csv", table, header=["x", "y"], delimiter=";")
    error = fault(file, target="y", regression=True)
    assert "line 2: '0,5'" in error.what
    assert "data.decimal=comma" in error.fix
    targets = build(file, target="y", regression=True, decimal="comma").splits["train"].targets
    assert (targets % 1 == 0.5).all()


@pytest.mark.parametrize(
    ("cells", "value", "options"),
    [(["$1,200.50", "$900.00"], 1200.5, {}), (["12.5 %", "8 %"], 12.5, {}), (["1'250", "900"], 1250, {}),
     (["1,250", "900"], 1250, {"decimal": "point"})],
)  # fmt: skip
def test_amounts_to_predict_as_people_write_them(tmp_path, cells, value, options):
    table = [[str(number * number % 7), f'"{cells[number % 2]}"'] for number in range(40)]
    source = build(write(tmp_path / "t.csv", table, header=["x", "y"]), target="y", regression=True, **options)
    offset = source.info.preparation.get("target_offset", 0.0)
    assert (source.splits["train"].targets + offset).max() == pytest.approx(value)
    assert f"the target's {cells[0]} is read as {value:g}" in source.notes
    if options:
        error = fault(tmp_path / "t.csv", target="y", regression=True)
        assert "if it separates thousands: data.decimal=point" in error.fix


def test_numbers_that_stand_for_no_value_are_told(tmp_path):
    table = [[*row, "-999" if number % 9 == 2 else str(number % 50), str(90 + number % 10)]
             for number, row in enumerate(rows())]  # fmt: skip
    notes = build(write(tmp_path / "t.csv", table, header=[*HEADER, "depth", "score"])).notes
    (note,) = (note for note in notes if "if it stands for no value" in note)
    assert "column 'depth' is -999 in 7 rows, 0 to 49 in others" in note
    assert "line 4, line 13" in note
    assert note.endswith("data.missing_values=[-999]")


def test_values_that_are_missing_by_the_config_are_gaps_in_new_rows_too(tmp_path):
    table = [[row[0] or "-999", row[1] if row[1] != "NA" else "not asked", *row[2:]] for row in rows()]
    coded = build(write(tmp_path / "coded.csv", table), missing_values=("not asked", -999.0))
    plain = build(write(tmp_path / "plain.csv", rows()))
    for split, samples in plain.splits.items():
        assert torch.equal(all_inputs(coded.splits[split]), all_inputs(samples))
    row = {"length": "-999.0", "colour": "not asked", "code": "1"}
    gaps = {"length": "", "colour": "", "code": "1"}
    prepared = prepare_rows(coded.info.preparation, [row])
    assert (prepared == prepare_rows(plain.info.preparation, [gaps])).all()
    assert RowInputs([], [row], coded.info.preparation).unknown(0) == ""
    assert RowInputs([], [row], plain.info.preparation).unknown(0) == "colour=not asked"
    assert DataInfo.from_plain(coded.info.to_plain()).preparation == coded.info.preparation


def test_classes_that_are_named_after_several_others_are_told(tmp_path):
    table = [[*row[:3], "yes; no" if number % 10 == 1 else row[3]] for number, row in enumerate(rows())]
    notes = build(write(tmp_path / "t.csv", table)).notes
    assert any(note.startswith("WARNING: classes that are named after several others: 'yes; no';") for note in notes)
    table = [[*row[:3], "yes; but" if number % 10 == 1 else row[3]] for number, row in enumerate(rows())]
    assert not any("several others" in note for note in build(write(tmp_path / "t.csv", table)).notes)


def test_classes_that_are_plainly_the_same_are_told(tmp_path):
    table = [[*row[:3], "Yes" if row[3] == "yes" and number % 2 else row[3]] for number, row in enumerate(rows())]
    notes = build(write(tmp_path / "t.csv", table)).notes
    assert any(note.startswith("WARNING: different classes") and "'Yes' / 'yes'" in note for note in notes)


def test_a_class_that_is_called_as_if_it_were_missing_is_asked_about(tmp_path):
    error = fault(write(tmp_path / "t.csv", [[*row[:3], row[3].replace("maybe", "None")] for row in rows()]))
    assert error.fix.startswith("if 'None' is a class, call it otherwise; if not, ")


@pytest.mark.parametrize(
    ("name", "cells", "names"),
    [
        ("id", [str(7 * n % 101) for n in range(50)], True),
        ("CustomerId", [str(15_634_602 + 37 * n) for n in range(50)], True),
        ("Unnamed: 0", [str(7 * n % 101) for n in range(50)], True),
        ("x", [str(n + 1) for n in range(50)], True),
        ("who", [f"person {n}" for n in range(50)], True),
        ("year", [str(1970 + n) for n in range(50)], False),
        ("grid", [str(7 * n % 101) for n in range(50)], False),
        ("id", [str(n % 25) for n in range(50)], False),
        ("id", [f"{n}.5" for n in range(50)], False),
        ("id", [str(n) for n in range(15)], False),
        ("kind", ["a", "b"] * 25, False),
    ],
)
def test_columns_that_name_rows(name, cells, names):
    assert read_column(name, cells).names_rows is names


@pytest.mark.parametrize(
    ("first", "second", "sample"),
    [
        ("5.1,3.5,setosa", "4.9,3.0,setosa", True),
        ("39,State-gov,77516,13", "50,Private,83311,9", True),
        ("a/0.png,cat", "a/1.png,dog", True),
        ("0,1,2", "5,6,7", True),
        ("country,1990,1995,2005", "Chad,1,2,3", False),
        ("dose,10,20,30", "x,1,2,3", False),
        ("2023,kind", "1,a", False),
        ("path,kind", "a.png,1", False),
    ],
)
def test_a_first_line_that_is_no_header(tmp_path, first, second, sample):
    (tmp_path / "t.csv").write_text(f"{first}\n{second}\n{second}\n")
    said = [fault.text for fault in read_csv(tmp_path / "t.csv").faults]
    assert any(text.startswith("the first line holds") for text in said) is sample, said


def test_rows_without_a_target_may_be_left_out(tmp_path):
    table = rows()
    table[2][3], table[4][3] = "", "NaN"
    source = build(write(tmp_path / "t.csv", table), missing_target="drop")
    assert sum(map(len, source.splits.values())) == 58
    assert not {4, 6} & {line for samples in source.splits.values() for line in lines_of(samples)}
    assert any("2 rows, left out" in note for note in source.notes)
    assert "data.missing_target=drop" in fault(tmp_path / "t.csv").fix


def test_a_column_of_many_texts_is_told_with_examples(tmp_path):
    source = column_of(tmp_path / "t.csv", [f"{number}.5 kg" for number in range(25)], val=0, test=0)
    assert any("column 'x' has 25 different texts" in note and "line 2: '0.5 kg'" in note for note in source.notes)


def test_an_index_column_is_left_out_and_told(tmp_path):
    for index in (range(60), [(7 * number) % 61 for number in range(60)]):  # also of rows that were shuffled
        table = [[str(number), *row] for number, row in zip(index, rows(), strict=True)]
        source = build(write(tmp_path / "t.csv", table, header=["", *HEADER]))
        assert source.info == build(write(tmp_path / "u.csv", rows())).info
        assert any("first column has no name" in note for note in source.notes)
    for header in (["", *HEADER[:-2], "", HEADER[-1]], ["length", "", *HEADER[1:]]):  # no index, or not only one
        error = fault(write(tmp_path / "t.csv", table, header=header))
        assert "columns without a name" in error.what
    source = build(write(tmp_path / "t.csv", [[str(n), *row] for n, row in enumerate(rows())], header=["n", *HEADER]))
    assert any("column 'n' numbers the rows" in note for note in source.notes)


def test_splits_may_be_written_in_any_case(tmp_path):
    words = ["TRAIN", "Train", "VALIDATION", "Valid", "TEST", "Testing"]
    table = [[*row, words[number // 3 % 6]] for number, row in enumerate(rows())]
    source = build(write(tmp_path / "t.csv", table, header=[*HEADER, "part"]), split_column="part")
    assert {split: len(samples) for split, samples in source.splits.items()} == {"train": 24, "val": 18, "test": 18}


def test_missing_and_constant_targets(tmp_path):
    table = rows()
    table[2][3], table[4][3] = "", "NA"
    assert "target 'answer' is missing in 2 rows: line 4, line 6" in fault(write(tmp_path / "t.csv", table)).what
    table = [[*row[:3], "yes"] for row in rows()]
    assert "'yes' in every row" in fault(write(tmp_path / "t.csv", table)).what
    table = [[*row[:3], "3.5"] for row in rows()]
    assert "3.5 in every row" in fault(write(tmp_path / "t.csv", table), regression=True).what


def test_targets_of_the_wrong_task(tmp_path):
    file = write(tmp_path / "t.csv", rows())
    error = fault(file, regression=True)
    assert "line 2: 'yes'" in error.what
    assert "classification" in error.fix
    table = [["1", str(number / 7)] for number in range(50)]
    error = fault(write(tmp_path / "n.csv", table, header=["x", "y"]), target="y")
    assert "50 different numbers in 50 rows" in error.what
    assert "regression" in error.fix


def test_class_in_one_split_only(tmp_path):
    table = [[*row, "train"] for row in rows(12)] + [["1", "red", "0", "never", "test"]]
    error = fault(write(tmp_path / "t.csv", table, header=[*HEADER, "part"]), split_column="part")
    assert "train has no rows of 'never'" in error.what


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "empty"),
        (b"\n\n", "empty"),
        (b"a,b\n", "no rows"),
        (b"a,a,b\n1,2,3\n", "same name: a"),
        (b",a,answer\n7,1,yes\n", "without a name in the header line: number 1"),
        (b"1,2,3\n4,5,6\n", "not the columns' names"),
        (b"sep=;\r\na;answer\r\n1;yes\r\n", "line 1 is 'sep=;'"),
        (b"a,answer\n1,yes\n2,n\0\n", "line 3 holds a NUL"),
        (b"a,answer\n" + b"1" * 200_000 + b",yes\n", "line 2 is not CSV: field larger"),
        (b"a,answer\n\xff,yes\n", "line 2 is not UTF-8"),
        ("a,answer\n1,yes\n".encode("utf-16") + b"\0", "is not UTF-16 text"),
        ("a,answer\n1,yes\n".encode("utf-16-le"), "holds a NUL character"),
        (b'a,answer\n"x"y,yes\n', "line 2 is not CSV"),
        (b"# by me\na,answer\n1,yes\n", "comments are not read"),
        (b"a answer\n1.5  yes\n2.5 no\n", "separated by blanks: 'a answer'"),
        (b"PK\3\4\xff\0", "an Excel workbook"),
        (b'{"a": 1, "answer": "yes"}\n', "this is JSON"),
        (b"\x1f\x8b\x08\0", "packed by gzip"),
        (b"a,b\n1,2\n", "no column 'answer'"),
        (b"answer\nyes\nno\n" * 8, "no column is left"),
        (b"a,answer\n,yes\n,no\n,yes\n,no\n,yes\n,no\n,yes\n,no\n", "column 'a' is empty"),
    ],
)
def test_files_that_are_no_tables(tmp_path, content, says):
    (tmp_path / "t.csv").write_bytes(content)
    assert says in fault(tmp_path / "t.csv", val=0.25, test=0.25).what


def test_unknown_columns_in_the_config(tmp_path):
    file = write(tmp_path / "t.csv", rows())
    assert "did you mean 'answer'?" in fault(file, target="anwser").what
    absent = fault(tmp_path / "my%20file.csv")
    assert "set data.file" in absent.fix
    assert "data.drop" in fault(file, drop=("size",)).fix
    assert "data.categorical" in fault(file, categorical=("size",)).fix
    assert "data.split_column" in fault(file, split_column="size").fix
    assert "no such file" in fault(tmp_path / "none.csv").what
