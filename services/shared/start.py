"""From the command line to a running service: settings, logs, and one clear line where it cannot start (exit 2)."""

import sys
from collections.abc import Callable
from typing import TypeVar

from services.shared import logs
from services.shared.objects import StoreUnavailable
from services.shared.settings import CannotStart, read

Settings = TypeVar("Settings")


def run(service: str, settings: type[Settings], serve: Callable[[Settings], None]) -> None:
    """Reads the settings, sets up logs and serves until a signal."""
    try:
        given = read(settings)
        logs.configure(service, given.log_level)  # type: ignore[attr-defined]
        serve(given)
    except (CannotStart, StoreUnavailable) as problem:
        for line in str(problem).splitlines():
            print(f"{service}: {line}", file=sys.stderr)  # noqa: T201 - there may be no log yet
        sys.exit(2)
