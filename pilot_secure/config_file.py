"""Reading YAML configuration files as people expect them to be read."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from pilot_secure.errors import ConfigError


class _Loader(yaml.SafeLoader):
    """YAML 1.2's core scalars and no duplicate keys.

    PyYAML follows YAML 1.1, where `no` is false and `6e-3` is text; neither is what the author
    of `mixed_precision: no` or `learning_rate: 6e-3` means.
    """

    yaml_implicit_resolvers = {
        first: [(tag, regexp) for tag, regexp in resolvers if not tag.endswith(_REPLACED)]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
        for _REPLACED in [(":bool", ":float", ":int", ":timestamp")]
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Build a mapping, refusing a key that stands twice."""
        keys = [key.value for key, _ in node.value]
        for key in sorted({key for key in keys if keys.count(key) > 1}):
            line = node.start_mark.line + 1
            raise yaml.MarkedYAMLError(problem=f"key `{key}` stands twice after line {line}")
        return super().construct_mapping(node, deep)


for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?[0-9]+", "-+0123456789"),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", "-+.0123456789"),
):
    _Loader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), list(_first)
    )


def shipped_configs() -> dict[str, Path]:
    """The configurations that come with the package, by name."""
    package = Path(__file__).parent
    folders = (package / "configs", package.parent / "configs")
    folder = next((place for place in folders if place.is_dir()), package)
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def read_config_file(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file; an empty file is an empty mapping.

    A name without a file behind it, such as `general-vqa`, is that of a shipped configuration.
    Raises: ConfigError if it is missing, unreadable, no YAML, or no mapping.
    """
    if not path.exists():
        path = shipped_configs().get(str(path), path)
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)  # noqa: S506
    except FileNotFoundError:
        names = ", ".join(shipped_configs())
        raise ConfigError(
            [f"--config is {path}: expected a YAML file or one of {names}, there is none."]
        ) from None
    except OSError as error:
        raise ConfigError([f"--config is {path}: cannot be read ({error.strerror})."]) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError([f"--config is {path}: expected YAML, but {reason}."]) from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError([f"--config is {path}: expected `section:` mappings at its top level."])
    return {str(key): value for key, value in content.items()}


class _Dumper(yaml.SafeDumper):
    """Quotes text that either version of YAML would read as something else."""


for _first, _resolvers in _Loader.yaml_implicit_resolvers.items():
    for _name, _regexp in _resolvers:
        _Dumper.add_implicit_resolver(_name, _regexp, [_first])


def dump_config(config: BaseModel, comment: str) -> str:
    """A configuration as a YAML file that `read_config_file` reads back, under a comment."""
    return dump_settings(config.model_dump(mode="json"), comment)


def dump_settings(content: Mapping[str, Any], comment: str) -> str:
    """Some of a configuration's fields as a YAML file, under a comment; the rest are defaults."""
    lines = "".join(f"# {line}\n" for line in comment.splitlines())
    return lines + yaml.dump(dict(content), Dumper=_Dumper, sort_keys=False, allow_unicode=True)
