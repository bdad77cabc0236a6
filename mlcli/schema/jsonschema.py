"""The JSON schema that editors complete and check a YAML with (https://json-schema.org, draft 2020-12)."""

import ast
import inspect
import textwrap
from functools import cache
from itertools import pairwise
from typing import Annotated, Any, Union

from pydantic import BaseModel, Field, TypeAdapter
from pydantic.json_schema import GenerateJsonSchema


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
