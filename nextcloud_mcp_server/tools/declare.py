"""Declare a tool: its function, its scope and its annotations; and make it one of the SDK."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated, Any, Final, cast

from mcp.server.mcpserver import Context
from mcp.server.mcpserver.tools import Tool
from mcp_types import CallToolResult, InputRequiredResult, TextContent, ToolAnnotations
from pydantic import Field

from nextcloud_mcp_server.nextcloud.account import Capabilities
from nextcloud_mcp_server.nextcloud.errors import NextcloudError
from nextcloud_mcp_server.tools.access import Access, Person
from nextcloud_mcp_server.tools.arguments import AsGiven
from nextcloud_mcp_server.tools.results import Result

#: The parameter of a list or a text that is not on its first page.
Cursor = Annotated[str | None, Field(description="`next` of the page before")]


@dataclass(frozen=True)
class Call:
    """What the function of a tool gets before its own arguments."""

    person: Person
    context: Context[Any, Any]

    async def progress(self, done: float, total: float | None, message: str) -> None:
        """Report how far a long call is, if the client asked for that."""
        await self.context.report_progress(done, total, message)

    async def calendars(self, done: int, total: int) -> None:
        """Report how many calendars are read."""
        await self.progress(done, total, f"{done} of {total} calendars read")


@dataclass(frozen=True)
class Kind:
    """What a tool does, as the annotations of MCP say it."""

    reads: bool = False
    destroys: bool = False
    repeatable: bool = False
    outside: bool = False

    def annotations(self, title: str) -> ToolAnnotations:
        """Return all four hints and the title."""
        return ToolAnnotations(
            title=title,
            read_only_hint=self.reads,
            destructive_hint=self.destroys,
            idempotent_hint=self.repeatable,
            open_world_hint=self.outside,
        )


READS: Final = Kind(reads=True, repeatable=True)
ADDS: Final = Kind()
OVERWRITES: Final = Kind(destroys=True)
DELETES: Final = Kind(destroys=True, repeatable=True)


@dataclass(frozen=True)
class Declared:
    """A tool before it is bound to an :class:`~.access.Access`.

    Attributes:
        function: takes a :class:`Call` and the arguments of the tool. Its name is that of the
            tool, and its docstring the description.
        title: a name for people.
        scope: the scope that it needs; None if being connected is enough.
        kind: for the annotations.
        available: whether a Nextcloud with these capabilities has it.
    """

    function: Callable[..., Awaitable[Result]]
    title: str
    scope: str | None
    kind: Kind
    available: Callable[[Capabilities], bool] = lambda _: True

    @property
    def name(self) -> str:
        """Return the name of the tool."""
        return self.function.__name__

    def bind(self, access: Access) -> Tool:
        """Return the tool that runs for the person whom ``access`` finds."""

        async def run(context: Context[Any, Any], **arguments: Any) -> Any:
            person = await access.require(self.scope, context)
            if isinstance(person, InputRequiredResult):
                return person
            try:
                result = await self.function(Call(person, context), **arguments)
            except NextcloudError as error:
                raise await access.failed(error) from None
            # The SDK would indent the text, which costs a third more tokens.
            text = TextContent(type="text", text=result.model_dump_json())
            return CallToolResult(content=[text], structured_content=result.model_dump(mode="json"))

        signature = inspect.signature(self.function, eval_str=True)
        first, *own = signature.parameters.values()
        context = first.replace(name="context", annotation=Context[Any, Any])
        run.__name__ = self.name
        run.__signature__ = signature.replace(parameters=[context, *own])  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in (context, *own)}
        tool = Tool.from_function(
            run,
            name=self.name,
            title=self.title,
            description=" ".join(_text(self.function).split()),
            annotations=self.kind.annotations(self.title),
            structured_output=True,
        )
        tool.parameters = _short(tool.parameters, optional=True)
        metadata = tool.fn_metadata = AsGiven.model_construct(**dict(tool.fn_metadata))
        metadata.output_schema = _short(metadata.output_schema or {}, optional=False)
        return tool


def tool(
    title: str,
    scope: str | None,
    kind: Kind,
    available: Callable[[Capabilities], bool] = lambda _: True,
) -> Callable[[Callable[..., Awaitable[Result]]], Declared]:
    """Return a decorator that declares a function as a tool; see :class:`Declared`."""
    return lambda function: Declared(function, title, scope, kind, available)


def _text(function: Callable[..., object]) -> str:
    """Return the docstring of a function; that of its source text, as `python -OO` drops it."""
    if function.__doc__:
        return function.__doc__
    [definition] = ast.parse(inspect.getsource(function)).body
    return ast.get_docstring(cast("ast.AsyncFunctionDef", definition)) or ""


#: Where a schema has other schemas by a name that is not a keyword.
_NAMED: Final = ("properties", "$defs")


def _short(schema: Any, *, optional: bool) -> Any:
    """Return a schema without what costs tokens and says nothing: titles, defaults, null.

    Args:
        schema: a schema, or a part of one.
        optional: an argument that may be left out need not accept null.
    """
    if isinstance(schema, list):
        return [_short(part, optional=optional) for part in schema]
    if not isinstance(schema, dict):
        return schema
    result: dict[str, Any] = {}
    for key, value in schema.items():
        if key in _NAMED:
            result[key] = {name: _short(part, optional=optional) for name, part in value.items()}
        elif key == "anyOf" and {"type": "null"} in value:
            result |= _nullable(
                _short([part for part in value if part != {"type": "null"}], optional=optional),
                optional,
            )
        elif key not in {"title", "default"} and not (
            key == "description" and "properties" in schema
        ):
            result[key] = _short(value, optional=optional)
    return result


def _nullable(parts: list[dict[str, Any]], optional: bool) -> dict[str, Any]:
    """Return the schema of a value that may be null; of the value alone if it may be left out."""
    if len(parts) > 1 or "type" not in parts[0]:
        return {"anyOf": parts if optional else [*parts, {"type": "null"}]}
    return parts[0] if optional else {**parts[0], "type": [parts[0]["type"], "null"]}
