"""House rules that no linter knows: fresh generated code, short files and functions, imports that go one way."""

import ast
import dataclasses
import graphlib
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_type_hints

import grimp
import pytest

from handful import __version__
from handful.errors import HandfulError
from services.dataset.settings import DatasetSettings
from services.inference.settings import InferenceSettings
from services.trainer.settings import TrainerSettings
from services.trainer.worker.settings import WorkerSettings

ROOT = Path(__file__).parents[2]
SHIPPED = "services/trainer/exports/shipped/"
MAX_FILE_LINES = 300
MAX_FUNCTION_LINES_P90 = 25


def sources() -> Iterator[Path]:
    """Our own code: no tests, nothing generated."""
    for folder in ("handful", "services"):
        for path in (ROOT / folder).rglob("*.py"):
            if not {"v1", "v2", "migrations"} & set(path.parts):
                yield path


@pytest.mark.parametrize(
    ("folder", "protos"), [("handful/v1", "protos/handful/v1"), ("services/inference/oip/v2", "protos/inference")]
)
def test_generated_code_is_what_the_protos_generate(tmp_path: Path, folder: str, protos: str) -> None:
    """Generating a folder again changes nothing."""
    files = sorted(str(path) for path in (ROOT / protos).glob("*.proto"))
    plugins = Path(sys.executable).parent
    outputs = [f"--{kind}_out={tmp_path}" for kind in ("python", "grpc_python")]
    outputs += [f"--{kind}_out=quiet:{tmp_path}" for kind in ("mypy", "mypy_grpc")]
    found = [f"--plugin=protoc-gen-{kind}={plugins / f'protoc-gen-{kind}'}" for kind in ("mypy", "mypy_grpc")]
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{folder}={ROOT / protos}", *found, *outputs, *files]
    subprocess.run(command, check=True, capture_output=True)
    generated = {path.name: path.read_text() for path in (tmp_path / folder).iterdir()}
    committed = {path.name: path.read_text() for path in (ROOT / folder).glob("*_pb2*.py*")}
    assert generated == committed, "run make protos"


def test_the_version_is_one() -> None:
    """The version that servers tell is the package's."""
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"] == __version__


def test_files_and_functions_are_short() -> None:
    """No file has more than 300 lines, and nine functions in ten have at most 25."""
    lengths = []
    for path in sources():
        text = path.read_text()
        assert text.count("\n") <= MAX_FILE_LINES, path
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                documented = len((ast.get_docstring(node, clean=False) or "").splitlines())
                lengths.append((node.end_lineno or 0) - node.lineno + 1 - documented)
    assert sorted(lengths)[int(0.9 * len(lengths))] <= MAX_FUNCTION_LINES_P90


def test_imports_go_one_way() -> None:
    """No module imports itself by a detour, not even inside a function."""
    graph = grimp.build_graph("handful", "services", cache_dir=None)
    graphlib.TopologicalSorter(
        {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    ).prepare()


def test_sql_has_its_places() -> None:
    """Nobody else speaks SQL."""
    graph = grimp.build_graph("handful", "services", include_external_packages=True, cache_dir=None)
    assert graph.find_modules_that_directly_import("sqlalchemy") == {
        "services.dataset.catalog",
        "services.dataset.tables",
        "services.shared.answers",
        "services.shared.database",
        "services.shared.migrating",
        "services.shared.postgresql",
        "services.shared.sqlite",
        "services.trainer.attempts",
        "services.trainer.events",
        "services.trainer.models",
        "services.trainer.runs",
        "services.trainer.tables",
        "services.trainer.workers",
    }


def test_s3_and_the_environment_have_their_places() -> None:
    """The S3 library is known to the object store alone; the environment to settings, channel, command line and the
    module that has to set a variable before ONNX Runtime is loaded. What stands in exports is code for elsewhere.
    """
    graph = grimp.build_graph("handful", "services", include_external_packages=True, cache_dir=None)
    importers = graph.find_modules_that_directly_import("minio")
    assert importers == {"services.shared.objects.s3", "services.shared.objects.provision"}
    known = {"handful/channel.py", "handful/bundle/runtime.py", "services/shared/settings.py"}
    readers = {path.relative_to(ROOT).as_posix() for path in sources() if "os.environ" in path.read_text()}
    assert {path for path in readers if not path.startswith(("handful/cli/", SHIPPED))} == known


def test_a_runtime_is_loaded_in_one_place() -> None:
    """Few import ONNX Runtime or OpenVINO, which tell of their use unless they are kept from it first; what makes other
    numbers of graphs imports the former's tools, after that.
    """
    graph = grimp.build_graph("handful", "services", include_external_packages=True, cache_dir=None)
    assert graph.find_modules_that_directly_import("onnxruntime") == {
        "handful.bundle.runtime",
        "services.trainer.exports.halving",
        "services.trainer.quantizing",
    }
    assert graph.find_modules_that_directly_import("openvino") == {
        "services.inference.runtimes.of_openvino",
        "services.trainer.exports.intermediate",
    }


@pytest.mark.parametrize("pattern", [r"https?://", r"--(extra-)?index-url", r"--find-links"])
def test_the_lock_names_no_registry(pattern: str) -> None:
    """Where packages come from is the business of whoever installs."""
    assert not re.search(pattern, (ROOT / "requirements.lock").read_text())


def variables(settings: type[Any]) -> Iterator[str]:
    """What `read` would read, in groups too."""
    hints: dict[str, type[Any]] = get_type_hints(settings)
    for name, kind in hints.items():
        if dataclasses.is_dataclass(kind):
            yield from variables(kind)
        else:
            yield f"HANDFUL_{name.upper()}"


@pytest.mark.parametrize("settings", [DatasetSettings, TrainerSettings, WorkerSettings, InferenceSettings])
def test_every_setting_is_documented(settings: type[Any]) -> None:
    """docs/settings.md has every variable that a service reads."""
    documented = (ROOT / "docs" / "settings.md").read_text()
    assert [variable for variable in variables(settings) if f"| `{variable}` |" not in documented] == []


def test_every_reason_is_documented() -> None:
    """docs/calling.md has every reason that a service gives with an error."""
    kinds = {kind.__name__: kind for kind in HandfulError.__subclasses__()}
    given: set[str] = set()
    for path in sources():
        for node in ast.walk(ast.parse(path.read_text())):
            if not (isinstance(node, ast.Call) and getattr(node.func, "id", "") in kinds):
                continue
            named = [one.value for one in node.keywords if one.arg == "reason"]
            default = kinds[getattr(node.func, "id", "")].default_reason
            if "services" in path.parts:
                given |= {str(one.value) for one in named if isinstance(one, ast.Constant)} or ({default} - {"UNKNOWN"})
    documented = (ROOT / "docs" / "calling.md").read_text()
    assert len(given) > 20
    assert {reason for reason in given if f"`{reason}`" not in documented} == set()


def test_every_module_says_what_it_is() -> None:
    """Every module begins with a docstring."""
    assert [path for path in sources() if not ast.get_docstring(ast.parse(path.read_text()))] == []
