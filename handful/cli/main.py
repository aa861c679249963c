"""`handful`: what can be said on the command line, and how errors are said: in a line, with what to do, exit code 2."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path

from handful.cli import (
    architectures,
    commands,
    compare,
    continuing,
    demo,
    doctor,
    exchange,
    explain,
    predicting,
    pushing,
    report,
    sweep,
    weights,
)
from handful.cli.stack import MissingParts
from handful.cli.wording import for_people
from handful.errors import HandfulError, InvalidArgument

Command = Callable[[argparse.Namespace], int]
Add = Callable[[str, str, Command], argparse.ArgumentParser]

EXIT_FAILED = 1
EXIT_CANNOT = 2
_EPILOGUE = """\
five minutes:
  handful up                                    starts everything, with its data in ~/.handful
  handful push ./photos --dataset flowers       photos/daisy/1.jpg, photos/rose/1.jpg, ... become a dataset
  handful train flowers                         trains while you watch; seconds on a laptop
  handful predict flowers some.jpg              what is it?
  handful explain flowers some.jpg              what did it look at?
  handful train flowers preset=quality          tries every network at hand and takes the best

Services elsewhere: set HANDFUL_DATASET, HANDFUL_TRAINER and HANDFUL_INFERENCE to their host:port.
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """The entry point."""
    given = _parse(arguments)
    command: Command = given.command
    try:
        code = command(given)
    except KeyboardInterrupt:
        code = 130
    except BrokenPipeError:  # who read, as `head` does, has enough; at the end Python would try to write the rest
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = EXIT_FAILED
    except (HandfulError, MissingParts, OSError) as problem:
        print(f"handful: {for_people(_say(problem))}", file=sys.stderr)
        code = EXIT_CANNOT
    sys.exit(code)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = _parser()
    given, rest = parser.parse_known_args(arguments)
    # argparse takes FIELD=VALUE before options only; people write them anywhere.
    if "fields" not in given or any(one.startswith("-") for one in rest):
        parser.parse_args(arguments)  # says what is wrong
    else:
        given.fields += rest
    return given


def _say(problem: BaseException) -> str:
    if isinstance(problem, InvalidArgument) and problem.violations:
        return "\n         ".join(f"{field}: {what}" for field, what in problem.violations)
    if isinstance(problem, OSError) and problem.filename:
        return f"{problem.filename}: {problem.strerror}"
    return str(problem)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="handful",
        description="Train, watch and serve image and sound classifiers from 15 to 50 examples per class.",
        epilog=_EPILOGUE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"handful {version('handful')}")
    adding = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def add(name: str, purpose: str, command: Command) -> argparse.ArgumentParser:
        made = adding.add_parser(name, help=purpose, description=purpose)
        made.set_defaults(command=command)
        return made

    _add_starting(add)
    _add_data(add)
    _add_runs(add)
    _add_models(add)
    _add_installation(add)
    return parser


def _add_starting(add: Add) -> None:
    up = add("up", "start all services here; Ctrl-C stops them", commands.up)
    up.add_argument("--home", type=Path, help="where data lives (default: HANDFUL_HOME, or ~/.handful)")

    show = add("demo", "push, train, watch and predict in a temporary home", demo.run)
    show.add_argument("--data", type=Path, help="a folder of class folders, or of train/ and val/ (default: digits)")
    show.add_argument("--json", action="store_true", help="print the report as one JSON object on the last line")


def _add_data(add: Add) -> None:
    push = add("push", "add a folder of class folders to a dataset, and seal a version", pushing.run)
    push.add_argument(
        "folder", type=Path, help="cat/1.jpg dog/2.jpg ... (a fifth validates), or train/cat/1.jpg val/cat/2.jpg ..."
    )
    push.add_argument(
        "--groups",
        default="",
        metavar="PATTERN|FILE.csv",
        help="a regular expression whose parentheses match, in each file's name, what it belongs to, such as the "
        "speaker: '_([a-z]+)_'; or a CSV file with the columns file (cat/1.jpg) and group. No group is divided between "
        "training and validation",
    )
    push.add_argument("--yes", action="store_true", help="push a folder that does not look like class folders, unasked")
    push.add_argument("--dataset", help="the dataset's id (default: the folder's name)")


def _add_runs(add: Add) -> None:
    train = add("train", "train a model on a dataset and watch", commands.train)
    train.epilog = (
        "Without preset=... it is `fast`; `baseline` where a field is set that `fast` lacks; else `fine_tune`."
    )
    train.add_argument("dataset", help="a dataset's id")
    train.add_argument(
        "fields",
        nargs="*",
        default=[],  # or argparse says that it is required
        metavar="FIELD=VALUE",
        help="recipe fields, as `handful recipes` lists them",
    )
    train.add_argument("--model", default="", help="id of the model that gets a new version (default: the dataset's)")
    train.add_argument("--params", type=Path, help="a JSON file of recipe fields")
    train.add_argument("--promote", action="store_true", help="point the alias `production` at the new version")
    train.add_argument("--detach", action="store_true", help="queue the run and return")

    _add_continuing(add)
    watch = add("watch", "watch a run", commands.watch)
    watch.add_argument("run", nargs="?", help="a run's id, or a model's for its latest run (default: the latest run)")
    cancel = add("cancel", "stop a run", commands.cancel)
    cancel.add_argument("run", help="a run's id, or a model's for its latest run")
    add("runs", "list runs, newest first", commands.runs)
    _add_comparing(add)
    add("recipes", "list presets and their fields", commands.recipes)
    listed = add("architectures", "list the networks that can be trained", architectures.show)
    listed.add_argument("--json", action="store_true", help="print them as one JSON array of objects")


def _add_continuing(add: Add) -> None:
    more = add("continue", "train on from the last checkpoint of a run that is over", continuing.run)
    more.add_argument("run", help="a run's id, or a model's for its latest run")
    more.add_argument("fields", nargs="*", default=[], metavar="FIELD=VALUE", help="recipe fields that shall be other")
    more.add_argument("--epochs", type=int, required=True, metavar="N", help="epochs to train beyond those it has")
    more.add_argument("--dataset", default="", help="data of the same classes, its latest version (default: the run's)")
    more.add_argument("--model", default="", help="id of the model that gets a new version (default: the run's)")
    more.add_argument("--promote", action="store_true", help="point the alias `production` at the new version")
    more.add_argument("--detach", action="store_true", help="queue the run and return")


def _add_comparing(add: Add) -> None:
    told = add("report", "write what came of a run as one HTML page that needs nothing else", report.run)
    told.add_argument("run", nargs="?", help="a run's id, or a model's for its latest run (default: the latest run)")
    told.add_argument("--out", type=Path, metavar="FILE", help="where it goes (default: MODEL-VERSION.html)")
    compared = add("compare", "set runs side by side: recipes, accuracies with intervals, times", compare.run)
    compared.add_argument(
        "runs", nargs="+", metavar="RUN", help=f"a run's id, or a model's for its latest {compare.LATEST_RUNS} runs"
    )
    compared.add_argument("--json", action="store_true", help="print all of it as one JSON object")
    compared.add_argument("--html", type=Path, metavar="FILE", help="write a page with curves that needs nothing else")

    swept = add("sweep", "train every combination of recipe fields, and report on all of them", sweep.run)
    swept.add_argument(
        "fields",
        nargs="+",
        metavar="DATASET | FIELD=VALUE,VALUE... | +",
        help="datasets, each sealed once; fields with all their values; + begins another grid of fields",
    )
    swept.add_argument("--model", default="", help="id of the model that gets the versions (default: DATASET-sweep)")
    swept.add_argument("--json", action="store_true", help="print the comparison as one JSON object, and nothing else")
    swept.add_argument("--html", type=Path, metavar="FILE", help="where the page goes (default: DATASET-sweep.html)")


def _add_models(add: Add) -> None:
    add("models", "list models, their versions and aliases", commands.models)
    _add_questions(add)
    _add_exchange(add)

    promote = add("promote", "point an alias of a model at a version", commands.promote)
    promote.add_argument("model", help="a model's id")
    promote.add_argument("version", type=int, help="number of the version")
    promote.add_argument("--alias", default="production", help="the alias (default: production)")


def _add_questions(add: Add) -> None:
    predict = add("predict", "say what pictures show, or what sounds are of", predicting.run)
    predict.add_argument("model", help="flowers, flowers@staging or flowers/versions/2")
    predict.add_argument(
        "files",
        nargs="+",
        type=Path,
        metavar="FILE",
        help="JPEG, PNG or WebP; WAV, FLAC, OGG or MP3; or a folder, for a table of all that are in it",
    )
    predict.add_argument("--json", action="store_true", help="print a JSON object for each file, on a line of its own")
    predict.add_argument("--top", type=int, default=3, help="answers per file (default: 3)")
    predict.add_argument(
        "--max-wrong",
        type=predicting.share,
        nargs="?",
        const="",  # argparse takes -1% for an option: so it is told what to write as well
        metavar="SHARE",
        help="of all that is asked, how much may be answered wrongly, such as 5%%; it is unsure of the rest",
    )

    explained = add("explain", "draw what a model looked at, and name the examples that are most like it", explain.run)
    explained.add_argument("model", help="flowers, flowers@staging or flowers/versions/2")
    explained.add_argument("file", type=Path, metavar="FILE", help="JPEG, PNG or WebP; WAV, FLAC, OGG or MP3")
    explained.add_argument("--class", dest="label", default="", metavar="CLASS", help="why it; default: the likeliest")
    explained.add_argument("--out", type=Path, metavar="FILE", help="where the drawing goes (default: FILE-CLASS.png)")

    evaluate = add("evaluate", "measure a model on a dataset, without what it was trained on", commands.evaluate)
    evaluate.add_argument("model", help="flowers, flowers@staging or flowers/versions/2")
    evaluate.add_argument("dataset", help="a dataset's id; its latest version is taken")
    evaluate.add_argument("--plots", type=Path, metavar="FOLDER", help="where the confusion matrices go, as PNG files")


def _add_exchange(add: Add) -> None:
    export = add("export", "write a model as a zip that runs without Handful", exchange.export)
    export.add_argument("model", nargs="?", help="flowers, flowers@staging or flowers/versions/2")
    export.add_argument("--format", default="", help="one of those that --list names (default: onnx)")
    export.add_argument(
        "--list", action="store_true", help="list the formats, and which of them the model can be had in"
    )
    export.add_argument("--json", action="store_true", help="with --list: print a JSON array")
    export.add_argument(
        "--out", type=Path, default=Path(), help="a .zip file, or a folder (default: here, flowers-3.zip)"
    )

    import_ = add("import", "take an exported zip as a version of a model", exchange.import_)
    import_.add_argument("zip", type=Path, help="what `handful export` wrote")
    import_.add_argument("--model", help="id of the model (default: as the file is called, flowers of flowers-3.zip)")
    import_.add_argument("--promote", action="store_true", help="point the alias `production` at it")


def _add_installation(add: Add) -> None:
    examined = add("doctor", "say what is installed and what answers, and what to do about what does not", doctor.run)
    examined.add_argument("--seconds", type=float, default=9.0, help="how long to wait for answers (default: 9)")
    examined.add_argument("--json", action="store_true", help="print the findings as one JSON object")

    shown = add("weights", "list the pretrained weights, and bring those that are not here", weights.show)
    adding = shown.add_subparsers(title="commands", metavar="COMMAND")

    def also(name: str, purpose: str, command: Command) -> argparse.ArgumentParser:
        made = adding.add_parser(name, help=purpose, description=purpose)
        made.set_defaults(command=command)
        return made

    also("list", "list every architecture's weights: where they are, size, licence (the default)", weights.show)
    fetch = also("fetch", "download weights from their official source, once", weights.fetch)
    fetch.add_argument("ids", nargs="+", metavar="ARCHITECTURE")
    bring = also("import", "keep the weights of a file that was downloaded elsewhere", weights.bring)
    bring.add_argument("file", type=Path, help="the official .pth file, or a .safetensors file that a Handful keeps")
    bring.add_argument(
        "--as", dest="architecture", required=True, metavar="ARCHITECTURE", help="whose weights they are"
    )
    also("verify", "compare all weights that are here with their hashes", weights.verify)
