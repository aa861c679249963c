"""`predict.py --max-wrong`: up to which confidence answers are held back for it. The arithmetic is error_control.py, by
which the same model is served.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import error_control


def add_to(parser: argparse.ArgumentParser) -> None:
    """The argument `max_wrong`, None where it is not given."""
    parser.add_argument(
        "--max-wrong",
        type=_share,
        metavar="SHARE",
        help="of all that is asked, how much may be answered wrongly, such as 5%%; it is unsure of the rest",
    )


def min_confidence(folder: Path, parser: argparse.ArgumentParser, rate: float | None) -> float | None:
    """The confidence up to which answers are held back; None where no rate is asked for. Where it cannot be promised
    the program says why and ends.
    """
    if rate is None:
        return None
    told = json.loads((folder / "error_control.json").read_text(encoding="utf-8"))
    known = error_control.Measured(**told["measured"]) if told["measured"] else None
    found: float | None = error_control.min_confidence(known, rate) if known else None
    if found is None:
        why = told["refusal"] or error_control.why_not(known, rate)
        parser.exit(2, f"--max-wrong: {rate:g} cannot be promised by this export: {why}\n")
    return found


def held_back(answer: dict[str, Any]) -> str:
    """Why it is no answer, as its line begins; empty where it is one."""
    why = "unknown" if answer["unknown"] else "unsure" * answer["unsure"]
    return f"{why}; of the classes most like: " if why else ""


def _share(text: str) -> float:
    try:
        value: float = error_control.share(text)
    except ValueError as problem:
        raise argparse.ArgumentTypeError(str(problem)) from None
    return value
