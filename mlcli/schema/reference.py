"""Documents written from the config classes: docs/config.md, and the JSON schema for editors.

docs/config.md has every key with what it may hold, its default and its docstring. With the JSON schema
(https://json-schema.org, draft 2020-12) editors complete and check a YAML.
"""

import ast
import inspect
import json
import re
import textwrap
from collections import Counter
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from typing import Annotated, Any, Union

from pydantic import BaseModel, Field, TypeAdapter
from pydantic.fields import FieldInfo
from pydantic.json_schema import GenerateJsonSchema

from mlcli.schema.words import Slot, in_words, slots

INTRODUCTION = """\
# Every key of a configuration

<!-- Written by `mlcli schema --markdown > docs/config.md`; change the docstrings of the config classes instead. -->

One YAML file describes one experiment. Only `task`, `data` and `model` must be there; everything else has a default.
A section that has one may leave its `name` out: `optimizer: {lr: 0.05}` is SGD.
Numbers with a fraction are 0, or in size 1e-30 to 1e15.

```yaml
# yaml-language-server: $schema=./mlcli.schema.json
task: classification
data:      {name: digits}
augment:   [{name: random_crop, padding: 1}]
model:     {name: mlp, hidden: [128, 64], activation: relu, dropout: 0.1}
loss:      {name: cross_entropy, label_smoothing: 0.0}
optimizer: {name: sgd, lr: 0.1, momentum: 0.9, weight_decay: 1e-4}
schedule:  {name: cosine, warmup_epochs: 1}
train:     {epochs: 20, batch_size: 64, precision: auto, seed: 0}
loader:    {workers: auto}
```

* **Overrides** on the command line change single keys: `mlcli train x.yaml optimizer.lr=0.01 'model.hidden=[256,128]'`.
  Numbers count list elements from 0: `augment.0.padding=2`. The last of several overrides of one key wins.
* **Paths** are relative to the folder the YAML lies in, also in overrides. Where the YAML comes from standard input
  (`-`), they are relative to the working folder.
* **Values** follow YAML 1.2: `1e-3` is a number, `no` and `on` are text, `null` means off. A key set twice, anchors,
  aliases, merge keys and tags are errors, and so is every key that is not on this page.
* **Editors** complete and check the file by the schema in its first line: `mlcli schema > mlcli.schema.json`.
"""


@cache
def field_docs(section: type[BaseModel]) -> dict[str, str]:
    """The text under each field of a section.

    Read from the source only when it is asked for: pydantic's `use_attribute_docstrings` does so for every class at
    import, which adds a quarter to the start of each command.
    """
    docs: dict[str, str] = {}
    for owner in reversed(section.__mro__):
        if owner is BaseModel or not issubclass(owner, BaseModel):
            continue
        body = ast.parse(textwrap.dedent(inspect.getsource(owner))).body[0].body  # type: ignore[attr-defined]
        for statement, below in pairwise(body):
            match statement, below:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                    docs[name] = inspect.cleandoc(text)
    return docs


# --- docs/config.md --------------------------------------------------------------------------------------------------


def reference(kinds: dict[str, type[BaseModel]], order: tuple[str, ...]) -> str:
    """The page. `kinds` are the tasks by name, `order` the order of their sections."""
    parts = [INTRODUCTION, "| section | meaning | default |\n|---|---|---|"]
    keys = [key for key in order if any(key in kind.model_fields for kind in kinds.values())]
    for key in keys:
        kind = next(kind for kind in kinds.values() if key in kind.model_fields)
        text = field_docs(kind).get(key, f"What is learned: {' or '.join(kinds)}.")
        link = f"[`{key}`](#{_slug(key)})" if key != "task" else "`task`"
        parts[-1] += f"\n| {link} | {text} | {_default(kind.model_fields[key])} |"
    for key in keys[1:]:
        owners = {task: kind for task, kind in kinds.items() if key in kind.model_fields}
        parts += _chapter(key, owners, len(owners) == len(kinds))
    return "\n\n".join(part.strip("\n") for part in parts if part) + "\n"


def _chapter(key: str, owners: dict[str, type[BaseModel]], in_all_tasks: bool) -> Iterator[str]:
    """One section: what it is for, and the sections that may stand there with the tasks each is for."""
    tasks: dict[type[BaseModel], list[str]] = {}
    for task, kind in owners.items():
        for variant in _variants(slots(kind)[key]):
            tasks.setdefault(variant, []).append(task)
    owner = next(iter(owners.values()))
    yield f"## {key}"
    lead = "" if in_all_tasks else f"Only for {' and '.join(owners)}. "
    if not tasks:  # a value of its own, no section
        yield lead.rstrip()
        yield _table(key, owner, [key])
        return
    yield lead + field_docs(owner)[key] + (" A list of sections." if slots(owner)[key].is_list else "")
    only = {variant: " and ".join(names) for variant, names in tasks.items() if len(names) < len(owners)}
    yield from _sections(key, list(tasks), only)


def _sections(path: str, variants: list[type[BaseModel]], only_for: dict[type[BaseModel], str]) -> Iterator[str]:
    """The tables of the sections that may stand at `path`; what all of them share comes first, once."""
    titles = {variant: f"{path}: {', '.join(_names(variant))}" for variant in variants}
    names = Counter(name for variant in variants for name in _names(variant))
    for variant, tasks in only_for.items():  # two tasks may call different things by one name
        if any(names[name] > 1 for name in _names(variant)):
            titles[variant] += f" ({tasks})"
    if len(variants) == 1 and "name" not in variants[0].model_fields:
        yield inspect.cleandoc(variants[0].__doc__ or "") if variants[0].__doc__ else ""
        yield _table(path, variants[0], list(variants[0].model_fields))
    else:
        links = [f"[{title.removeprefix(f'{path}: ')}](#{_slug(title)})" for title in titles.values()]
        yield f"One of {', '.join(links)}."
        shared = [key for key in variants[0].model_fields if len({_row(path, v, key) for v in variants}) == 1]
        if shared:
            yield f"All of them have these keys:\n\n{_table(path, variants[0], shared)}"
        for variant in variants:
            yield f"### {titles[variant]}"
            yield (f"Only for {only_for[variant]}. " if variant in only_for else "") + inspect.cleandoc(
                variant.__doc__ or ""
            )
            yield _table(path, variant, [key for key in variant.model_fields if key not in (*shared, "name")])
    for key, inner in {key: _variants(slot) for v in variants for key, slot in slots(v).items()}.items():
        if inner:
            yield f"### {path}.{key}"
            yield from _sections(f"{path}.{key}", inner, {})


def _table(path: str, section: type[BaseModel], keys: list[str]) -> str:
    rows = [_row(path, section, key) for key in keys]
    return "\n".join(["| key | value | default | meaning |", "|---|---|---|---|", *rows]) if keys else ""


def _row(path: str, section: type[BaseModel], key: str) -> str:
    if key not in section.model_fields:
        return ""
    slot = slots(section)[key]
    words = in_words(slot)
    if _variants(slot):
        what = "list of sections" if any(value.is_list for value in slot.values) else "section"
        words = f"{what}, see [{path}.{key}](#{_slug(f'{path}.{key}')})" + (", or null" if slot.nullable else "")
    inner = next(iter(_variants(slot)), None)
    text = field_docs(section).get(key) or inspect.cleandoc((inner and inner.__doc__) or "")
    text = text.replace("|", "\\|").replace("\n", " ")
    return f"| `{key}` | {words} | {_default(section.model_fields[key])} | {text} |"


def _variants(slot: Slot) -> list[type[BaseModel]]:
    inner = [value.element if value.is_list else value for value in slot.values]
    return [kind for value in inner for kind in dict.fromkeys(value.sections.values())]


def _default(field: FieldInfo) -> str:
    """The default as one would write it; long ones are given in the key's text."""
    if field.is_required():
        return "**required**"
    value = field.get_default(call_default_factory=True, validated_data={})
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json", include={"name"})
        return f"`{{name: {value['name']}}}`" if value else "each key's own"
    text = value if isinstance(value, str) else json.dumps(value, default=lambda inner: inner.model_dump(mode="json"))
    return f"`{text}`" if len(text) <= 40 else "see text"


def _names(variant: type[BaseModel]) -> tuple[str, ...]:
    return Slot.of(variant.model_fields["name"].annotation).choices if "name" in variant.model_fields else ()


def _slug(title: str) -> str:
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^a-z0-9_ -]", "", title.lower()).replace(" ", "-")


# --- JSON schema -----------------------------------------------------------------------------------------------------


class _Generator(GenerateJsonSchema):
    def field_title_should_be_set(self, schema: Any) -> bool:
        return False  # "Batch Size" above batch_size says nothing

    def model_schema(self, schema: Any) -> dict[str, Any]:
        section = super().model_schema(schema)
        for key, text in field_docs(schema["cls"]).items():
            if key in section.get("properties", {}):
                section["properties"][key]["description"] = text
        return section


def json_schema(kinds: dict[str, type[BaseModel]]) -> dict[str, Any]:
    """One schema for the YAMLs of all tasks; the key `task` chooses."""
    union: Any = Annotated[Union[tuple(kinds.values())], Field(discriminator="task")]  # noqa: UP007 (made at run time)
    schema = TypeAdapter[Any](union).json_schema(schema_generator=_Generator)
    defaults = [field.default for kind in kinds.values() for field in kind.model_fields.values()]
    for default in {type(value).__name__ for value in defaults if hasattr(value, "name")}:
        schema["$defs"][default]["required"].remove("name")  # may be left out, see read.fill_in_names
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "mlcli configuration", **schema}
