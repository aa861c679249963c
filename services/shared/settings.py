"""The environment, read once at start into a frozen object: the only place of the services that knows os.environ.

A service's settings are a frozen dataclass whose fields are made with `setting`; `read` fills it from variables named
`HANDFUL_` and the field's name in capitals. A secret may stand in a file instead, which the same variable with `_FILE`
at its end names. A field may be such a class itself: settings that several services have. Every bad variable is
reported at once, a secret without its value.
"""

import dataclasses
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

PREFIX = "HANDFUL_"
Settings = TypeVar("Settings")


class CannotStart(Exception):
    """A service cannot start; the message says why and what to do."""


class BadSettings(CannotStart):
    """The environment does not add up; the message has one line per variable."""


def setting(
    default: Any = dataclasses.MISSING,
    *,
    purpose: str,
    minimum: float = -math.inf,
    maximum: float = math.inf,
    choices: tuple[str, ...] = (),
    secret: bool = False,
) -> Any:
    """A field of a settings class: its default, what it is for, and what it may be: a range, or one of some words.
    A secret is never shown, and may come from a file.
    """
    limits = {"purpose": purpose, "minimum": minimum, "maximum": maximum, "choices": choices, "secret": secret}
    return dataclasses.field(default=default, metadata=limits, repr=not secret)


def log_level() -> Any:
    """The setting that every service has."""
    return setting("info", purpose="how much is logged", choices=("debug", "info", "warning", "error"))


def metrics_address() -> Any:
    """The setting of what Prometheus may read; `services.shared.metrics` is what it switches on."""
    return setting("", purpose="address on which Prometheus reads metrics, over HTTP; empty: none")


def parent_pipe() -> Any:
    """The setting of what is started by another process of ours; `services.shared.parent` is what it switches on."""
    return setting(default=False, purpose="whether to go when standard input ends, as it does when the parent is gone")


def read(settings: type[Settings], environment: Mapping[str, str] | None = None) -> Settings:
    """The settings as the environment has them; BadSettings listing every variable that is missing or wrong."""
    source = os.environ if environment is None else environment
    hints = get_type_hints(settings)
    values: dict[str, Any] = {}
    problems: list[str] = []
    for field in dataclasses.fields(settings):  # type: ignore[arg-type]
        kind: type[Any] = hints[field.name]
        try:
            values[field.name] = read(kind, source) if dataclasses.is_dataclass(kind) else _value(field, kind, source)
        except BadSettings as problem:
            problems.append(str(problem))
    if problems:
        raise BadSettings("\n".join(problems))
    return settings(**values)


def home() -> Path:
    """Where everything lives unless a setting says otherwise: HANDFUL_HOME, or `~/.handful`."""
    return Path(os.environ.get("HANDFUL_HOME") or "~/.handful").expanduser()


def hand_down(**variables: str) -> None:
    """Sets variables for the processes that are spawned from here on, where they cannot be given an environment."""
    os.environ.update(variables)


def child_environment(**overrides: str) -> dict[str, str]:
    """This process's environment for a child, with some variables set."""
    return {**os.environ, **overrides}


def passed_on(names: Iterable[str]) -> dict[str, str]:
    """Those of this process's variables that have one of the names, for a child that gets no others."""
    return {name: os.environ[name] for name in names if name in os.environ}


def _value(field: "dataclasses.Field[Any]", kind: type, source: Mapping[str, str]) -> Any:
    variable, secret = PREFIX + field.name.upper(), field.metadata["secret"]
    given = source.get(variable, "")
    try:
        text = _text(variable, source) if secret else given
        if text:
            return _parse(text, kind, field.metadata)
    except ValueError as problem:
        shown = "" if secret else f"={given!r}"
        raise BadSettings(f"{variable}{shown}: {problem} ({field.metadata['purpose']})") from None
    if field.default is dataclasses.MISSING:
        raise BadSettings(f"{variable} is not set: {field.metadata['purpose']}")
    return field.default


def _text(variable: str, source: Mapping[str, str]) -> str:
    """A secret, from the variable or from the file that `<variable>_FILE` names, without the white space around it."""
    text, file = source.get(variable, ""), source.get(f"{variable}_FILE", "")
    if not file:
        return text
    if text:
        raise ValueError(f"is set twice; unset it or {variable}_FILE")
    try:
        text = Path(file).expanduser().read_text().strip()
    except (OSError, ValueError):
        raise ValueError(f"cannot read the file {file!r} that {variable}_FILE names") from None
    if not text:
        raise ValueError(f"the file {file!r} that {variable}_FILE names is empty")
    return text


def _parse(text: str, kind: type, limits: Mapping[str, Any]) -> Any:
    if kind is bool:
        return _parse_switch(text)
    if kind is str:
        if limits["choices"] and text not in limits["choices"]:
            raise ValueError(f"must be one of {', '.join(limits['choices'])}")
        return text
    try:
        number = kind(text)
    except ValueError:
        raise ValueError(f"must be {'a whole number' if kind is int else 'a number'}") from None
    if not limits["minimum"] <= number <= limits["maximum"]:
        raise ValueError(f"must be between {limits['minimum']:g} and {limits['maximum']:g}")
    return number


def _parse_switch(text: str) -> bool:
    if text.lower() in {"1", "true", "yes", "on"}:
        return True
    if text.lower() in {"0", "false", "no", "off"}:
        return False
    raise ValueError("must be true or false")
