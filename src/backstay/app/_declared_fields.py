"""Follow the location of a validation error through the types that a route declares.

A location such as `("body", "owner", "tel")` may hold words of the caller: the name of an unknown field, the
key of a mapping. Only elements that the declared types know are kept; every other one becomes `*`.
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import NoneType, UnionType
from typing import Annotated, Any, Final, Union, get_args, get_origin, get_type_hints

from pydantic import AliasChoices, BaseModel, RootModel, Secret, SecretBytes, SecretStr
from pydantic.fields import FieldInfo
from starlette.requests import Request

from backstay.redaction import Sensitive, is_sensitive_key

__all__ = ["HIDDEN", "DeclaredField", "Place", "follow", "walk_types"]

HIDDEN: Final = "*"
_PARAMETERS: Final = ("path", "query", "header", "cookie")
_DICT_KEY: Final = "[key]"


@dataclass(frozen=True, slots=True)
class DeclaredField:
    """A field of a declared type."""

    wire: str
    """The name that callers use."""
    annotation: object
    sensitive: bool


@dataclass(frozen=True, slots=True)
class Place:
    """Where a location leads: the part of it that may be shown, and what may stand there."""

    loc: list[str | int] = field(default_factory=list)
    fields: Mapping[str, DeclaredField] = field(default_factory=dict)
    """Every declared field here, by each of its names."""
    kinds: tuple[object, ...] = ()
    sensitive: bool = False

    @property
    def names(self) -> list[str]:
        """The names that callers may use here."""
        return [declared.wire for declared in self.fields.values()]

    def step(self, element: str | int) -> "Place":
        """Follow one more element of a location."""
        if isinstance(element, str) and element in self.fields:
            declared = self.fields[element]
            return self._enter([declared.annotation], shown=declared.wire, sensitive=declared.sensitive)
        if isinstance(element, int) and (items := self._inner(_item_types)):
            return self._enter(items, shown=element)
        if element != _DICT_KEY and (values := self._inner(_value_types)):
            return self._enter(values, shown=HIDDEN)
        if element == _DICT_KEY or len(self.kinds) > 1:
            return self  # Pydantic's own label: a dictionary's key, or which member of a union was tried.
        return dataclasses.replace(self, loc=[*self.loc, HIDDEN])

    def _inner(self, types_of: Callable[[object], tuple[object, ...]]) -> list[object]:
        return [inner for kind in self.kinds for inner in types_of(kind)]

    def _enter(self, annotations: Iterable[object], *, shown: str | int, sensitive: bool = False) -> "Place":
        return _place([*self.loc, shown], annotations, sensitive=self.sensitive or sensitive)


def follow(loc: Iterable[str | int], request: Request) -> Place:
    """Return where `loc` leads in the input that the request's route declares."""
    elements = iter(loc)
    place = _start(str(next(elements, "")), request)
    for element in elements:
        place = place.step(element)
    return place


def _start(location: str, request: Request) -> Place:
    # Only included routers leave a context; it knows the dependencies that the inclusion added.
    context = request.scope.get("fastapi", {}).get("effective_route_context") or request.scope.get("route")
    if location in _PARAMETERS:
        return Place([location], fields=dict(_parameters(getattr(context, "dependant", None), location)))
    if location != "body":
        return Place([HIDDEN])
    body = getattr(context, "body_field", None)
    return _place(["body"], [] if body is None else [body.field_info.annotation])


def _parameters(dependant: Any, location: str) -> Iterator[tuple[str, DeclaredField]]:
    """Yield the parameters of a route and of all that it depends on; FastAPI has no public type for them."""
    if dependant is None:
        return
    for parameter in getattr(dependant, f"{location}_params"):
        info: FieldInfo = parameter.field_info
        kinds, _ = _open(info.annotation)
        for kind in kinds:
            yield from _fields(kind).items()
        declared = _declare(parameter.alias, info.annotation, info.metadata)
        yield from ((name, declared) for name in {parameter.name, parameter.alias, declared.wire})
    for dependency in dependant.dependencies:
        yield from _parameters(dependency, location)


def _place(loc: list[str | int], annotations: Iterable[object], *, sensitive: bool = False) -> Place:
    opened = [_open(annotation) for annotation in annotations]
    kinds = tuple(kind for some, _ in opened for kind in some)
    fields = {name: declared for kind in reversed(kinds) for name, declared in _fields(kind).items()}
    return Place(loc, fields, kinds, sensitive=sensitive or any(secret for _, secret in opened))


def walk_types(annotation: object) -> Iterator[tuple[object, Mapping[str, DeclaredField]]]:
    """Yield each type that a value of the annotation may hold, once, with the fields that it declares."""
    seen: list[object] = []
    waiting = [annotation]
    while waiting:
        kinds, _ = _open(waiting.pop())
        for kind in kinds:
            if kind not in seen:
                seen.append(kind)
                fields = _fields(kind)
                yield kind, fields
                waiting += [declared.annotation for declared in fields.values()]
                waiting += [*_item_types(kind), *_value_types(kind)]


# ---------------------------------------------------------------- types


def _open(annotation: object) -> tuple[list[object], bool]:
    """Return the types an annotation stands for, without `None`, and whether it is sensitive as a whole."""
    alias = get_origin(annotation) or annotation
    if hasattr(alias, "__value__"):  # a `type` statement, or its twin in typing_extensions
        return _open(alias.__value__)
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        kinds, secret = _open(arguments[0])
        return kinds, secret or _is_marked(arguments[1:])
    if origin in (Union, UnionType):
        opened = [_open(argument) for argument in arguments]
        return [kind for some, _ in opened for kind in some], any(secret for _, secret in opened)
    if isinstance(annotation, type) and issubclass(annotation, RootModel):
        return _open(annotation.model_fields["root"].annotation)
    is_secret = annotation in (SecretStr, SecretBytes) or origin is Secret
    return ([] if annotation in (None, NoneType) else [annotation]), is_secret


def _is_marked(metadata: Iterable[object]) -> bool:
    return any(item is Sensitive or isinstance(item, Sensitive) for item in metadata)


def _fields(kind: object) -> dict[str, DeclaredField]:
    """Return the fields of a model, dataclass, TypedDict or NamedTuple, by each name that callers may use."""
    described = getattr(kind, "model_fields" if _is_model(kind) else "__pydantic_fields__", None)
    if isinstance(described, dict):
        return {name: declared for key, info in described.items() for name, declared in _names(key, info)}
    if isinstance(kind, type) and (
        dataclasses.is_dataclass(kind) or _is_typed_dict(kind) or hasattr(kind, "_fields")
    ):
        hints = get_type_hints(kind, include_extras=True)
        return {name: _declare(name, annotation, ()) for name, annotation in hints.items()}
    return {}


def _names(key: str, info: FieldInfo) -> Iterator[tuple[str, DeclaredField]]:
    alias = info.validation_alias
    choices = alias.choices if isinstance(alias, AliasChoices) else [alias]
    names = [name for name in (*choices, info.alias) if isinstance(name, str)]
    declared = _declare((names or [key])[0], info.annotation, info.metadata)
    return ((name, declared) for name in (*names, key))


def _declare(wire: str, annotation: object, metadata: Iterable[object]) -> DeclaredField:
    _, secret = _open(annotation)
    return DeclaredField(wire, annotation, secret or _is_marked(metadata) or is_sensitive_key(wire))


def _is_model(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _is_typed_dict(kind: object) -> bool:
    # By its marks: typing does not know the TypedDict of typing_extensions, nor the other way round.
    return isinstance(kind, type) and issubclass(kind, dict) and hasattr(kind, "__required_keys__")


def _item_types(kind: object) -> tuple[object, ...]:
    """Return what a sequence or set holds; nothing for any other type."""
    origin = get_origin(kind) or kind
    if not isinstance(origin, type) or not issubclass(origin, Iterable):
        return ()
    if issubclass(origin, Mapping | str | bytes | BaseModel):
        return ()
    return get_args(kind) or (object,)


def _value_types(kind: object) -> tuple[object, ...]:
    """Return what a mapping's values are; nothing for any other type."""
    origin = get_origin(kind) or kind
    if not isinstance(origin, type) or not issubclass(origin, Mapping) or _is_typed_dict(kind):
        return ()
    return get_args(kind)[1:] or (object,)
