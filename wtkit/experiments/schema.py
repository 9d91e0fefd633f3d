"""The JSON schema of experiment files, which editors complete and check them by."""

from __future__ import annotations

from typing import Any

from pydantic import TypeAdapter
from pydantic.json_schema import models_json_schema

from .. import data_sets, methods
from ..validation import described
from .choices import BY_NAME, MLP, OLD_MLP_OPTIONS, OPTIONS, ResNetOptions, ViT
from .content import Ablation, Experiment, Override
from .run import RunConfig

Schema = dict[str, Any]


def json_schema() -> Schema:
    """The schema of both kinds of files: one with a ``base`` is an ablation."""
    _, made = models_json_schema([(Experiment, "validation"), (Ablation, "validation")])
    kinds = {name: _plain(kind) for name, kind in made["$defs"].items()}
    kinds["Network"] = _network()  # which pydantic knows as a tuple
    of = {name: kind.get("properties", {}) for name, kind in kinds.items()}
    for name in of.keys() - {"Settings"}:  # of which some may be null
        of[name] |= {key: _not_null(value) for key, value in of[name].items()}
    _describe(kinds["Settings"], RunConfig)
    of["Settings"] |= _choices()
    of["Change"] |= {name: _ref(f"Settings/properties/{name}") for name in of["Settings"]}
    for name in ("Match", "Exclusion"):
        of[name]["method"] = {"enum": methods.names()}
    for name in ("Experiment", "Ablation"):
        of[name]["methods"] = _list_of(_method())
    kinds["Point"] = _mapping(_point(of["Settings"]))
    of["Ablation"] |= {
        "sweep": _mapping(
            {key: _list_of(_ref(f"Point/properties/{key}")) for key in kinds["Point"]["properties"]}
        ),
        "variants": {"type": "object", "additionalProperties": _ref("Point")},
    }
    for cls in (Experiment, Ablation, Override):
        _describe(kinds[cls.__name__], cls)
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "An experiment of wtkit, or an ablation",
        "$defs": kinds,
        "if": {"required": ["base"]},
        "then": _ref("Ablation"),
        "else": _ref("Experiment"),
    }


def _choices() -> Schema:
    """What settings are checked for by name when a run is made."""
    options: Schema = {}
    for method in methods.names():
        for name, value in _options(methods.method_class(method)).items():
            accepted = options.setdefault(name, {"anyOf": []})["anyOf"]
            accepted += [] if value in accepted else [value]
    known = _mapping({name: one if len(one["anyOf"]) > 1 else one["anyOf"][0]
                      for name, one in options.items()})  # fmt: skip
    what = described(RunConfig)
    return {
        "options": known | {"description": what["options"]},
        "data": {"enum": data_sets.names(), "description": what["data"]},
    }


def _options(cls: type) -> Schema:
    """The options that ``cls`` has, each with what its docstring says of it."""
    schema = _plain(TypeAdapter(cls).json_schema())
    _describe(schema, cls)
    return schema.get("properties", {})


def _point(settings: Schema) -> Schema:
    """What may differ by point of an ablation."""
    of_methods = {
        name: _ref(f"Settings/properties/options/properties/{name}")
        for name in settings["options"]["properties"]
    }
    of_networks = _options(ViT) | _options(MLP) | _options(ResNetOptions)
    # sweeps may use old names, by which the runs of finished ablations are called
    of_networks |= {old: of_networks[new] for old, new in OLD_MLP_OPTIONS.items()}
    of_runs = {name: _ref(f"Settings/properties/{name}") for name in settings}
    own = {
        "network": _network_name(),
        "norm_order": _plain(TypeAdapter(RunConfig).json_schema())["properties"]["norm_order"],
        "network_options": {"type": "object"},
    }
    return of_networks | of_methods | of_runs | own


def _method() -> Schema:
    return {"anyOf": [{"enum": methods.names()}, {"type": "string", "pattern": "^[a-z0-9_]+:.+$"}]}


def _network_name() -> Schema:
    own = {"type": "string", "pattern": "^[^:]+:[^:]+$"}
    return {"anyOf": [{"enum": list(BY_NAME)}, own]}


def _network() -> Schema:
    options: Schema = {name: _mapping(_options(cls)) for name, cls in OPTIONS.items()}
    with_options = {
        "type": "object",
        "properties": options,
        "additionalProperties": {"type": "object"},
        "minProperties": 1,
        "maxProperties": 1,
    }
    return {"anyOf": [_network_name(), with_options]}


def _mapping(properties: Schema) -> Schema:
    return {"type": "object", "properties": properties, "additionalProperties": False}


def _list_of(items: Schema) -> Schema:
    return {"type": "array", "items": items, "minItems": 1}


def _ref(where: str) -> Schema:
    return {"$ref": f"#/$defs/{where}"}


def _not_null(schema: Schema) -> Schema:
    """Without the choice of null, for which an editor could not say what is wrong with the other
    choice."""
    choices = [one for one in schema.get("anyOf", []) if one != {"type": "null"}]
    return choices[0] if len(choices) == 1 else schema


def _describe(schema: Schema, cls: type) -> None:
    for name, text in described(cls).items():
        if name in schema.get("properties", {}):
            schema["properties"][name]["description"] = text


def _plain(schema: Any) -> Any:
    """Without the names of Python's classes, their docstrings, and defaults that are nothing."""
    if isinstance(schema, list):
        return [_plain(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: {name: _plain(one) for name, one in value.items()}
        if key in ("properties", "$defs")
        else _plain(value)
        for key, value in schema.items()
        if key not in ("title", "description") and (key, value) != ("default", None)
    }
