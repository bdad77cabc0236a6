"""An ONNX file looked into before anything loads it, as a stranger may have made it. Neither onnx nor torch in here.

ONNX is a protocol buffer (onnx/onnx.proto). Of it only what names other files and what describes the whole is read:
weights may lie in other files, wherever a path leads, and whoever loads such a model opens these.
"""

from collections.abc import Iterator

MOST_DEPTH = 64
"""Of messages in messages; graphs hold nodes, nodes attributes, attributes graphs."""
MODEL = {7: "graph", 14: "property", 20: "training", 25: "function"}
FIELDS: dict[str, dict[int, str]] = {
    "model": MODEL,
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "training": {1: "graph", 2: "graph"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
}
"""Of each message, the fields that may lead to a tensor, and what each holds."""
NAME, EXTERNAL, LOCATION = 8, 13, 14
"""Fields of a tensor: its name, entries about an external file, and whether its data are there (1)."""


class NotOnnx(ValueError):
    """What was read is no ONNX model, or a damaged one."""


def metadata(content: bytes) -> dict[str, str]:
    """Return the model's metadata. Raises NotOnnx."""
    found = {}
    for field, value in _fields(memoryview(content)):
        if MODEL.get(field) == "property" and isinstance(value, memoryview):
            entry = {number: bytes(text) for number, text in _fields(value) if isinstance(text, memoryview)}
            found[entry.get(1, b"").decode(errors="replace")] = entry.get(2, b"").decode(errors="replace")
    return found


def external_tensors(content: bytes) -> list[str]:
    """Return the names of the tensors whose data are said to lie in other files. Raises NotOnnx."""
    return [*_external(memoryview(content), "model", 0)]


def _external(message: memoryview, kind: str, depth: int) -> Iterator[str]:
    if depth > MOST_DEPTH:
        raise NotOnnx(f"messages are more than {MOST_DEPTH} deep in each other")
    if kind == "tensor":
        fields = dict(_fields(message))
        if EXTERNAL in fields or fields.get(LOCATION):
            name = fields.get(NAME, b"")
            yield bytes(name).decode(errors="replace") if isinstance(name, memoryview | bytes) else "?"
        return
    for field, value in _fields(message):
        if (inner := FIELDS.get(kind, {}).get(field)) and inner != "property" and isinstance(value, memoryview):
            yield from _external(value, inner, depth + 1)


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Number and value of each field: an integer, or bytes. Raises NotOnnx."""
    place = 0
    while place < len(message):
        tag, place = _varint(message, place)
        kind, field = tag & 7, tag >> 3
        if kind == 0:
            value, place = _varint(message, place)
            yield field, value
            continue
        if kind not in (1, 2, 5) or field == 0:
            raise NotOnnx("it is no protocol buffer")
        size, place = _varint(message, place) if kind == 2 else (8 if kind == 1 else 4, place)
        if size > len(message) - place:
            raise NotOnnx("it is cut short")
        yield field, message[place : place + size]
        place += size


def _varint(message: memoryview, place: int) -> tuple[int, int]:
    """An integer of seven bits a byte, the lowest first, and the place behind it."""
    value = 0
    for shift in range(0, 70, 7):
        if place >= len(message):
            raise NotOnnx("it is cut short")
        byte = message[place]
        place += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, place
    raise NotOnnx("it is no protocol buffer")
