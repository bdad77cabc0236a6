"""The server and the page of examples/ answer as the run does."""

import contextlib
import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mlcli import load

EXAMPLES = Path(__file__).parents[2] / "examples"
ORT_WEB = os.environ.get("MLCLI_ORT_WEB", "")
"""Folder dist/ of onnxruntime-web, from npm; the page is not tested without it."""
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
ask = urllib.request.build_opener(urllib.request.ProxyHandler({})).open
"""Without the environment's proxy: the servers are on this machine."""


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    """A folder with two pictures: one of the model's size, and a larger one in colour."""
    path, generator = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for name, shape in (("small.png", (8, 8)), ("large.png", (37, 50, 3))):
        Image.fromarray(generator.integers(0, 256, shape, dtype=np.uint8)).save(path / name)
    return path


def answers(folder: Path, picture: Path) -> dict:
    (found,) = load("d", root=folder / "runs").predict(picture)
    return {key: value for key, value in found.items() if key != "input"}


def assert_alike(found: dict, wanted: dict, within: float) -> None:
    assert found["label"] == wanted["label"]
    assert list(found["probabilities"]) == list(wanted["probabilities"])
    assert [*found["probabilities"].values()] == pytest.approx([*wanted["probabilities"].values()], abs=within)


def test_the_server_answers_as_predict_does(folder, pictures):
    command = [sys.executable, EXAMPLES / "serve.py", folder / "d.onnx", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            address = server.stdout.readline().strip()
            for name in ("small.png", "large.png"):
                with ask(address, (pictures / name).read_bytes(), 60) as reply:
                    assert reply.headers["Content-Type"] == "application/json"
                    assert_alike(json.load(reply), answers(folder, pictures / name), 2e-6)
            for content, code, said in [(b"no picture", 400, "cannot read image"), (b"", 411, "send one image")]:
                with pytest.raises(urllib.error.HTTPError) as raised:
                    ask(urllib.request.Request(address, content, method="POST"), timeout=60)
                assert raised.value.code == code
                assert said in json.load(raised.value)["error"]
        finally:
            server.kill()


TELLING = """
<script>
const tellTest = () => {
  const said = document.querySelector("#answer").textContent, status = document.querySelector("#status").textContent;
  if (said || status.startsWith("error")) fetch("/told", { method: "POST", body: said || status });
};
new MutationObserver(tellTest).observe(document.body, { childList: true, characterData: true, subtree: true });
</script>
"""
"""Added to the page: how long a browser takes is nobody's to know, so the page says when it is done."""


@contextlib.contextmanager
def served(folder: Path, told: "queue.Queue[str]") -> Iterator[str]:
    class Quiet(SimpleHTTPRequestHandler):
        extensions_map = SimpleHTTPRequestHandler.extensions_map | {".mjs": "text/javascript"}

        def do_POST(self) -> None:
            told.put(self.rfile.read(int(self.headers["Content-Length"])).decode())
            self.send_response(204)
            self.end_headers()

        def log_message(self, *words: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.skipif(not CHROMIUM, reason="needs Chromium (apt-get install chromium)")
@pytest.mark.skipif(not ORT_WEB, reason="needs MLCLI_ORT_WEB, the folder dist/ of onnxruntime-web (npm)")
def test_the_page_answers_as_predict_does(folder, pictures, tmp_path):
    page = (EXAMPLES / "browser" / "index.html").read_text()
    (pictures / "index.html").write_text(page.replace("<script type", TELLING + "<script type"))
    shutil.copy(folder / "d.onnx", pictures / "model.onnx")
    (pictures / "ort").symlink_to(Path(ORT_WEB).absolute(), target_is_directory=True)
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--no-proxy-server", "--remote-debugging-port=0"]
    for name, within in (("small.png", 1e-5), ("large.png", 0.01)):
        told: queue.Queue[str] = queue.Queue()
        with served(pictures, told) as address:
            command = [CHROMIUM, *options, f"--user-data-dir={tmp_path / name}", f"{address}/index.html?image={name}"]
            browser = subprocess.Popen(
                command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
            )
            try:
                said = told.get(timeout=120)
            finally:
                os.killpg(browser.pid, signal.SIGKILL)
                browser.wait()
        assert said.startswith("{"), said
        assert_alike(json.loads(said), answers(folder, pictures / name), within)
