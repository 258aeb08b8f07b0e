"""From YAML files and `key=value` words to frozen dataclasses, with every mistake named.

`compose` lets Hydra put the files together; `parse` (of `pipeline.schema`) checks the result
against a dataclass. Values are data: nothing in a configuration is ever executed.

A word such as `stages.video.steps=10` may set any field of the schema, whether or not a YAML file
mentions it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.errors import ConfigError
from pipeline.schema import did_you_mean, parse

__all__ = ["compose", "did_you_mean", "parse"]


def compose(config_dir: str | Path, config_name: str, overrides: Sequence[str]) -> dict[str, Any]:
    """Put `config_name` and the groups it names together, apply `overrides`, resolve
    interpolations.

    `group=choice` picks a file of a group (a sub-folder of `config_dir`), `key=value` sets a value,
    `~key` removes one. Raises ConfigError for an unknown group choice (with the near ones), a
    malformed word, or a value left at `???`.
    """
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

    folder = Path(config_dir).resolve()
    if not (folder / f"{config_name}.yaml").is_file():
        raise ConfigError(
            f"{folder} holds no {config_name}.yaml; the configuration is not where it belongs"
        )
    words = [_prepare(word, folder) for word in overrides]
    GlobalHydra.instance().clear()  # someone may have used Hydra before us
    try:
        with initialize_config_dir(str(folder), version_base="1.3"):
            config = hydra_compose(config_name, overrides=words)
        values = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except MissingMandatoryValue as error:
        raise ConfigError(
            f"{getattr(error, 'full_key', '')}: has no value; give one with key=value"
        ) from error
    except OmegaConfBaseException as error:
        key = getattr(error, "full_key", None) or "configuration"
        raise ConfigError(f"{key}: {_first_line(error)}") from error
    except HydraException as error:
        raise ConfigError(f"configuration: {_first_line(error)}") from error
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


def _prepare(word: str, folder: Path) -> str:
    """Check one word of the command line; `key=value` becomes Hydra's `++key=value`, add or
    change."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.core.override_parser.types import OverrideType
    from hydra.errors import HydraException

    try:
        override = OverridesParser.create().parse_override(word)
    except HydraException as error:
        advice = (
            "expected key=value"
            if "=" not in word
            else "quote a value with one of , : = [ ] { } ( ) or a blank in it"
        )
        raise ConfigError(f"{word!r} is not a setting: {advice}") from error
    if override.is_sweep_override():
        raise ConfigError(
            f"{word!r} gives several values to one key; "
            f"write a list as {override.key_or_group}=[a,b]"
        )
    group = folder / override.key_or_group
    if override.type == OverrideType.CHANGE and group.is_dir():
        choices = sorted(path.stem for path in group.glob("*.yaml"))
        choice = override.value()
        if isinstance(choice, str) and choice not in choices:
            raise ConfigError(
                f"{override.key_or_group}={choice}: there is no such {group.name}"
                f"{did_you_mean(choice, choices)}"
            )
        return word
    return f"++{word}" if override.type == OverrideType.CHANGE else word


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
