"""`mlcli data check` on tables: every planted fault is found in one pass, and clean tables raise no alarm."""

from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_iris

from mlcli.data.check.examination import Examination
from mlcli.data.check.examine import examine
from mlcli.data.check.table import robust_z
from mlcli.data.config import ClassificationTable, RegressionTable, TableFile, Xor
from mlcli.data.finding import Finding

Lines = list[list[str]]


def found(examination: Examination, kind: str) -> Finding:
    matching = [finding for finding in examination.findings if finding.kind == kind]
    assert len(matching) == 1, [finding.kind for finding in examination.findings]
    return matching[0]


def worth_attention(examination: Examination) -> list[str]:
    return [finding.kind for finding in examination.findings if finding.severity != "note"]


def clean_lines(rows: int = 240) -> Lines:
    """Three numbers and a category from which the answer can be told, mostly."""
    random = np.random.default_rng(0)
    lines = [["width", "height", "weight", "colour", "kind"]]
    for row in range(rows):
        kind = row % 3
        values = random.normal([kind, -kind, 2 * kind], 0.6)
        colour = ("red", "green", "blue")[(kind + (random.random() < 0.4)) % 3]
        lines.append([*(f"{value:.6f}" for value in values), colour, ("ant", "bee", "cat")[kind]])
    return lines


def table(folder: Path, lines: Lines, *, regression: bool = False, target: str = "kind", **options) -> Examination:
    path = folder / "table.csv"
    path.write_text("\n".join(",".join(line) for line in lines) + "\n")
    return examine(TableFile(name="csv", file=path, target=target, **options), regression=regression)


# --- no alarm --------------------------------------------------------------------------------------------------------


def test_a_clean_table_raises_no_alarm(tmp_path):
    examination = table(tmp_path, clean_lines())
    assert examination.findings == []
    assert examination.figures["rows"] == 240
    assert examination.figures["columns"]["colour"] == {"kind": "category", "values": 3, "missing": 0}


@pytest.mark.parametrize(
    ("config", "regression"),
    [
        (ClassificationTable(name="iris"), False),
        (ClassificationTable(name="wine"), False),
        (ClassificationTable(name="breast_cancer"), False),
        (RegressionTable(name="diabetes"), True),
        (Xor(name="xor"), False),
        (Xor(name="xor", repeats=8, noise=0.1), False),
    ],
    ids=lambda value: str(getattr(value, "name", "")),
)
def test_embedded_tables_raise_no_alarm(config, regression):
    assert worth_attention(examine(config, regression=regression)) == []


def test_iris_has_one_row_twice():
    """Rows 101 and 142, which are 102 and 143 where counting begins with 1 (Fisher's table as in scikit-learn)."""
    data = load_iris().data
    assert (data[101] == data[142]).all()
    examination = examine(ClassificationTable(name="iris"), regression=False)
    assert found(examination, "duplicates-across-splits").places == ("iris:101 (train) = iris:142 (val)",)


# --- planted faults --------------------------------------------------------------------------------------------------


def test_all_faults_of_columns_are_found_in_one_pass(tmp_path):
    lines = clean_lines()
    random = np.random.default_rng(1)
    extra = {
        "id": [str(1000 + row) for row in range(240)],
        "unit": ["cm"] * 240,
        "answer": [{"ant": "x", "bee": "y", "cat": "z"}[line[-1]] for line in lines[1:]],
        "code": [str({"ant": 1, "bee": 2, "cat": 3}[line[-1]] * 10 + row % 4) for row, line in enumerate(lines[1:])],
        "mostly_gone": [f"{random.normal():.4f}" if row % 3 == 0 else "NA" for row in range(240)],
        "sometimes_gone": [f"{random.normal():.4f}" if row % 10 else "" for row in range(240)],
        "width_mm": [f"{float(line[0]) * 1000:.3f}" for line in lines[1:]],
        "broken": ["1,5".replace(",", ";") if row in (4, 9) else f"{random.normal():.4f}" for row in range(240)],
        "shade": [("Dark", "dark", "light")[row % 3] for row in random.integers(0, 3, 240)],
    }  # fmt: skip
    for name, cells in extra.items():
        lines[0].insert(0, name)
        for line, cell in zip(lines[1:], cells, strict=True):
            line.insert(0, cell)
    examination = table(tmp_path, lines)
    assert found(examination, "id-column").places == ("id",)
    assert found(examination, "constant-column").places == ("unit",)
    leak = found(examination, "target-leak")
    assert (leak.severity, leak.places) == ("error", ("answer",))
    assert "data.drop=[answer]" in leak.fix
    told = found(examination, "target-told")
    assert (told.severity, told.places) == ("warning", ("code",))
    assert found(examination, "gaps").places == ("mostly_gone (67 %)",)
    assert found(examination, "some-gaps").places == ("sometimes_gone (10 %)",)
    assert found(examination, "twin-columns").places == ("width_mm = width",)
    wrong = found(examination, "no-number")
    assert wrong.severity == "error"
    assert wrong.places == ("line 6: '1;5'", "line 11: '1;5'")
    assert found(examination, "values-alike").places == ("'Dark' / 'dark'",)
    assert found(examination, "refused").severity == "error"
    kinds = {"id-column", "constant-column", "target-leak", "target-told", "gaps", "some-gaps", "twin-columns",
             "no-number", "values-alike", "refused"}  # fmt: skip
    assert {finding.kind for finding in examination.findings} == kinds


def test_all_faults_of_rows_are_found_in_one_pass(tmp_path):
    lines = clean_lines()
    lines[0].append("split")
    for row, line in enumerate(lines[1:]):
        line.append("test" if row % 4 == 3 else "train")
    for row in (11, 19, 27, 35):  # of the test
        lines[1 + row][:5] = lines[1 + row - 1][:5]
    lines.append([*lines[1][:5], "train"])
    lines.append([*lines[3][:4], "ant" if lines[3][4] != "ant" else "bee", "train"])
    lines.append([*lines[5][:4], "", "train"])
    lines.append([*lines[6][:5], "tset"])
    lines.append([*lines[7][:5], "train", "too", "many"])
    examination = table(tmp_path, lines, split_column="split")
    across = found(examination, "duplicates-across-splits")
    assert across.severity == "error"
    assert "4 rows of test are also in train" in across.text
    assert "line 12 (train) = line 13 (test)" in across.places
    conflict = found(examination, "conflicting-rows")
    assert conflict.severity == "warning"
    assert conflict.places[0].startswith("line 4 = ")
    assert found(examination, "target-missing").places == ("line 244",)
    assert found(examination, "unknown-split").places == ("line 245: 'tset'",)
    assert found(examination, "csv").places == ("line 246: 8 cells",)
    assert found(examination, "refused").severity == "error"
    assert "line 2 (train) = line 242 (train)" in found(examination, "duplicates").places


def test_rows_of_few_categories_repeat_by_nature(tmp_path):
    lines = [["a", "b", "kind"]]
    random = np.random.default_rng(0)
    for row in range(200):
        a = int(random.integers(3))
        lines.append(["xyz"[a], "uvw"[int(random.integers(3))], "no" if (a + row % 5 // 4) % 2 else "yes"])
    examination = table(tmp_path, lines)
    assert found(examination, "coarse").severity == "note"
    assert worth_attention(examination) == []


def test_wrong_labels_are_suspected(tmp_path):
    lines = clean_lines()
    swapped = (5, 50, 100, 200)
    for row in swapped:
        kind = row % 3
        other = 2 - kind if kind != 1 else 0
        lines[1 + row][:3] = [f"{value:.3f}" for value in (3 * other - 0.3, -3.0 * other, 6.0 * other)]
    places = found(table(tmp_path, lines), "suspicious-labels").places
    assert {place.split(":")[0] for place in places} & {f"line {row + 2}" for row in swapped}
    assert all("looks like" in place for place in places)


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ((80, 80, 80), {}),
        ((200, 30, 25), {"unbalanced": "note"}),
        ((400, 60, 8), {"unbalanced": "warning", "class-small": "warning"}),
    ],
    ids=["even", "uneven", "rare"],
)
def test_balance(tmp_path, counts, expected):
    lines, random = [["a", "b", "kind", "split"]], np.random.default_rng(0)
    for label, count in enumerate(counts):
        for split, part in (("train", count), ("test", 10)):
            lines += [[f"{random.normal(3 * label):.5f}", f"{random.normal():.5f}", "xyz"[label], split]
                      for _ in range(part)]  # fmt: skip
    examination = table(tmp_path, lines, split_column="split")
    severities = {f.kind: f.severity for f in examination.findings if f.kind in ("unbalanced", "class-small")}
    assert severities == expected


def test_a_class_that_a_split_lacks_is_an_error(tmp_path):
    lines = clean_lines()
    lines[0].append("split")
    for row, line in enumerate(lines[1:]):
        line.append("test" if row >= 200 and line[-1] != "cat" else "train")
    missing = found(table(tmp_path, lines, split_column="split"), "class-missing")
    assert (missing.severity, missing.places) == ("error", ("cat",))
    assert "in test" in missing.text


# --- numbers to predict ----------------------------------------------------------------------------------------------


def priced(prices: np.ndarray) -> Lines:
    random = np.random.default_rng(0)
    return [["area", "rooms", "price"]] + [
        [f"{price * random.uniform(0.5, 1.5):.3f}", f"{random.normal(3):.3f}", f"{price:.4f}"]
        for price in prices.tolist()
    ]


def test_skewed_prices_are_no_outliers(tmp_path):
    prices = np.random.default_rng(0).lognormal(5, 0.8, 400)
    assert worth_attention(table(tmp_path, priced(prices), regression=True, target="price")) == []


def test_slips_of_the_pen_are_outliers(tmp_path):
    prices = np.random.default_rng(0).normal(200, 30, 400)
    prices[[10, 20]] = (90_000, -40_000)
    outliers = found(table(tmp_path, priced(prices), regression=True, target="price"), "target-outliers")
    assert outliers.severity == "warning"
    assert outliers.places == ("line 12: 90000", "line 22: -40000")


def test_robust_z_is_the_usual_z_of_normal_values():
    values = np.random.default_rng(0).normal(-5, 3, 100_000)
    assert np.allclose(robust_z(values), np.abs(values + 5) / 3, atol=0.1, rtol=0.05)


def test_a_constant_target_and_bad_numbers_are_errors(tmp_path):
    constant = table(tmp_path, priced(np.full(60, 7.0)), regression=True, target="price")
    assert found(constant, "constant-target").severity == "error"
    lines = priced(np.linspace(1, 9, 60))
    lines[3][2], lines[4][2] = "much", ""
    examination = table(tmp_path, lines, regression=True, target="price")
    assert found(examination, "target-no-number").places == ("line 4: 'much'",)
    assert found(examination, "target-missing").places == ("line 5",)


def test_the_answer_in_other_units_is_a_leak(tmp_path):
    lines = priced(np.random.default_rng(0).uniform(1, 9, 200))
    for name, convert in (("cents", lambda price: 100 * price + 3), ("squared", lambda price: price**2)):
        lines[0].insert(0, name)
        for line in lines[1:]:
            line.insert(0, f"{convert(float(line[-1])):.8f}")
    examination = table(tmp_path, lines, regression=True, target="price")
    assert found(examination, "target-leak").places == ("cents",)
    assert found(examination, "target-told").places == ("squared",)


def test_a_file_that_is_no_table_is_told_in_one_finding_or_two(tmp_path):
    (tmp_path / "table.csv").write_bytes(b"")
    config = TableFile(name="csv", file=tmp_path / "table.csv", target="kind")
    assert {finding.kind for finding in examine(config, regression=False).findings} == {"csv", "refused"}


def test_a_target_that_is_not_there_is_told_with_the_nearest_name(tmp_path):
    missing = found(table(tmp_path, clean_lines(), target="kinds"), "missing-column")
    assert "did you mean 'kind'?" in missing.text
