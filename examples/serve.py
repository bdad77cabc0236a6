"""A server for an exported model: an image by POST, its answer as JSON. Python's own http.server, and no torch.

pip install 'mlcli[onnx]'
mlcli export RUN --to onnx -o model.onnx
python examples/serve.py model.onnx 8000
curl --data-binary @photo.jpg http://127.0.0.1:8000/
"""

import json
import sys
import tempfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from mlcli.export.file import open_exported

MOST_BYTES = 20 * 2**20


def answer(model, image: bytes) -> dict:
    """Return what `mlcli predict` says of the image, or why it cannot be answered as "error"."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "image"
        path.write_bytes(image)
        inputs = model.answers.inputs([path])
        good, pixels, errors = inputs.read([0])
        return model.answers.records(model.predict(pixels), inputs, good, None)[0] if good else {"error": errors[0]}


class Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        if not 0 < length <= MOST_BYTES:
            return self.reply(413 if length > 0 else 411, {"error": f"send one image of at most {MOST_BYTES} bytes"})
        found = answer(self.server.model, self.rfile.read(length))
        return self.reply(400 if "error" in found else 200, found)

    def reply(self, status: int, content: dict) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def main(file: str, port: str = "8000") -> None:
    server = ThreadingHTTPServer(("127.0.0.1", int(port)), Handler)  # other machines: put a proxy with HTTPS before it
    server.model = open_exported(Path(file))
    print(f"http://127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main(*sys.argv[1:])
