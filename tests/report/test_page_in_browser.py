"""The page in a real browser: nothing goes wrong, nothing sticks out, nothing is loaded, on a desk and on a phone."""

import pytest

from mlcli.report.page.write import write_report
from tests.report import browser, crafted

LONG = "a class of a quite unreasonable and never-ending-nameWithoutAnySpacesInItWhatsoever"
PAGES = {
    "two classes": lambda root: crafted.classifier(root, ["cat", "<script>document.title='taken'</script>"]),
    "hundred classes": lambda root: crafted.classifier(root, [f"class number {i}" for i in range(100)], "hundred"),
    "long names": lambda root: crafted.classifier(root, [f"{LONG} {i}" for i in range(12)], LONG),
    "detection": crafted.detector,
    "regression": crafted.regressor,
    "nothing": crafted.craft,
}


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    binary = browser.found()
    if binary is None:
        pytest.skip("no Chromium here; Debian has it as the package chromium")
    with browser.Browser(binary, tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    return {name: write_report(make(root)) for name, make in PAGES.items()}


@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (1280, "light")], ids=["phone", "desk"])
@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_whole(chromium, pages, name, width, scheme):
    chromium.open(pages[name], width, scheme)
    assert chromium.evaluate("document.documentElement.scrollWidth") <= width
    assert chromium.evaluate(OUTSIDE) == []
    assert chromium.complaints() == []
    assert chromium.requests() == [pages[name].as_uri()]
    assert chromium.evaluate("document.title") != "taken"
    assert chromium.evaluate("[...document.images].every(i => i.loading === 'lazy' || i.complete)")


OUTSIDE = """[...document.querySelectorAll('main *')].filter(e => {
  const box = e.getBoundingClientRect();
  const mayScroll = e.closest('.scroll, .paper > *, nav, pre, .tip, svg');
  return box.width && !mayScroll && (box.left < -1 || box.right > innerWidth + 1);
}).map(e => `${e.tagName} ${e.className} ${e.textContent.slice(0, 40)}`)"""
"""Elements that reach beyond the screen; what scrolls by itself may."""


def test_dark_is_dark(chromium, pages):
    def brightness():
        return sum(
            chromium.evaluate("getComputedStyle(document.body).backgroundColor.match(/[0-9.]+/g).map(Number)")[:3]
        )

    chromium.open(pages["detection"], 1280, "light")
    assert brightness() > 3 * 230
    chromium.open(pages["detection"], 1280, "dark")
    assert brightness() < 3 * 40


@pytest.mark.parametrize("name", ["long names", "detection", "regression"])
def test_a_printed_page_is_whole_and_light(chromium, pages, name):
    """On A4 without margins of its own, as the printer has them; asked for by somebody with a dark desk."""
    chromium.open(pages[name], A4_WIDTH, "dark")
    chromium.call("Emulation.setEmulatedMedia", media="print",
                  features=[{"name": "prefers-color-scheme", "value": "dark"}])  # fmt: skip
    assert chromium.evaluate("document.documentElement.scrollWidth") <= A4_WIDTH
    assert chromium.evaluate(CUT) == []
    ground = chromium.evaluate("getComputedStyle(document.body).backgroundColor.match(/[0-9.]+/g).map(Number)")
    assert ground[:3] == [255, 255, 255]
    chromium.call("Emulation.setEmulatedMedia", media="screen")


CUT = """[...document.querySelectorAll('.plot > span')].filter(e => {
  const box = e.getBoundingClientRect();
  return box.width && (box.left < 0 || box.right > innerWidth);
}).map(e => `${e.className} ${e.textContent.slice(0, 40)}`)"""
"""Labels of charts that the edge of the paper cuts."""
A4_WIDTH = 718
"""Pixels of CSS between the margins of a browser."""


def test_values_under_the_pointer(chromium, pages):
    chromium.open(pages["detection"], 1280, "light")
    left, top, width, height = chromium.evaluate(
        "(b => [b.left, b.top, b.width, b.height])(document.querySelector('.plot svg').getBoundingClientRect())"
    )
    chromium.evaluate(f"scrollTo(0, {top} - 300)")
    scrolled = chromium.evaluate("scrollY")
    for share, epoch in ((0.0, "epoch 1"), (1.0, "epoch 20")):
        chromium.call("Input.dispatchMouseEvent", type="mouseMoved", x=left + share * (width - 1),
                      y=top - scrolled + height / 2)  # fmt: skip
        tip = chromium.evaluate("document.querySelector('.plot.hovered .tip').innerText").split("\n")
        assert tip[0] == epoch
    assert tip[1:] == ["train", "0.1000", "val", "0.2000"]


def test_a_narrow_chart_keeps_its_type_size(chromium, pages):
    sizes = []
    for width in (390, 1280):
        chromium.open(pages["detection"], width, "light")
        sizes.append(chromium.evaluate("document.querySelector('.plot .y').getBoundingClientRect().height"))
    assert sizes[0] == sizes[1]
