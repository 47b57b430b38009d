"""Typed settings from plain keys and values, and what is wrong with these, as one sentence for each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from ctfm.errors import UserError, nearest


def validated(model: type[BaseModel], content: Mapping[str, Any], prefix: str) -> Any:
    """Return settings made of a mapping.

    Args:
        model: the class of the settings.
        content: keys and values.
        prefix: where they stand, for messages.

    Raises:
        UserError: with the path of each wrong key and the nearest right one.
    """
    try:
        return model.model_validate(content)
    except ValidationError as error:
        raise UserError("; ".join(_sentence(model, prefix, e) for e in error.errors())) from error


def _sentence(model: type[BaseModel], prefix: str, error: Any) -> str:
    where = prefix + ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        return f"{where}: unknown key{nearest(str(error['loc'][-1]), _keys(model, error['loc'][:-1]))}"
    if error["type"] == "missing":
        return f"{where}: this key is required"
    return f"{where}: {error['msg']} (got {error['input']!r})"


def _keys(model: Any, location: tuple[Any, ...]) -> list[str]:
    """Return the fields known at a place of the configuration, following mappings and optional sections."""
    for part in location:
        if isinstance(model, type) and issubclass(model, BaseModel) and part in model.model_fields:
            model = model.model_fields[part].annotation
        model = next((m for m in (model, *_inner(model)) if isinstance(m, type) and issubclass(m, BaseModel)), model)
    return list(model.model_fields) if isinstance(model, type) and issubclass(model, BaseModel) else []


def _inner(annotation: Any) -> list[Any]:
    found = []
    for argument in get_args(annotation):
        found += [argument, *_inner(argument)]
    return found
