"""Clients that know nothing of us: what they learn by reflection is enough to call everything."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pb2
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from handful import Client
from handful.cli.stack import Stack
from services.trainer.exports.formats import FORMATS
from tests.processes import stack_in

ROOT = Path(__file__).parents[2]
OURS = "handful.v1."
# What a caller can mend; anything else is a fault of ours.
TYPED = {"OK", "INVALID_ARGUMENT", "NOT_FOUND"}


@pytest.fixture(scope="module")
def open_stack(tmp_path_factory: pytest.TempPathFactory, backbones: Path) -> Iterator[Stack]:
    """Services that answer reflection, with the backbone of the shared ones."""
    with stack_in(tmp_path_factory.mktemp("open")) as own:
        own.environment["HANDFUL_REFLECTION"] = "true"
        shutil.copytree(backbones, own.home / "store" / "backbones")
        with own:
            yield own


class Generic:
    """A client of one address that has no stubs: names, messages and methods come from the server."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._channel = channel
        self._database = ProtoReflectionDescriptorDatabase(channel)
        self._pool = DescriptorPool(self._database)

    def services(self) -> list[ServiceDescriptor]:
        names = [name for name in self._database.get_services() if name.startswith(OURS)]
        return [self._pool.FindServiceByName(name) for name in names]

    def methods(self) -> dict[str, MethodDescriptor]:
        return {method.name: method for service in self.services() for method in service.methods}

    def call(self, method: MethodDescriptor, *steps: dict[str, Any]) -> list[Any]:
        """The answers to a request, or to a stream of them."""
        request, response = GetMessageClass(method.input_type), GetMessageClass(method.output_type)
        described = descriptor_pb2.MethodDescriptorProto()
        method.CopyToProto(described)
        path = f"/{method.containing_service.full_name}/{method.name}"
        sends = "stream" if described.client_streaming else "unary"
        gets = "stream" if described.server_streaming else "unary"
        make = getattr(self._channel, f"{sends}_{gets}")
        called = make(path, request_serializer=request.SerializeToString, response_deserializer=response.FromString)
        messages = [request(**step) for step in steps]
        answered = called(iter(messages) if described.client_streaming else messages[0], timeout=60)
        return list(answered) if described.server_streaming else [answered]


@pytest.fixture
def generic(open_stack: Stack) -> Iterator[dict[str, Generic]]:
    channels = {name: grpc.insecure_channel(address) for name, address in vars(open_stack.addresses).items()}
    yield {name: Generic(channel) for name, channel in channels.items()}
    for channel in channels.values():
        channel.close()


def test_everything_is_listed(generic: dict[str, Generic]) -> None:
    """Every service of ours that products may call is found by reflection, and the workers' is not."""
    found = {service.name for client in generic.values() for service in client.services()}
    assert found == {"DatasetService", "TrainerService", "ModelService", "InferenceService"}


def test_everything_answers(generic: dict[str, Generic]) -> None:
    """Every method, called with an empty request, answers or says which field is wrong."""
    answers = {}
    for client in generic.values():
        for name, method in client.methods().items():
            try:
                client.call(method, {})
                answers[name] = "OK"
            except grpc.RpcError as problem:
                answers[name] = problem.code().name
    assert len(answers) >= 20
    assert {name: status for name, status in answers.items() if status not in TYPED} == {}


def test_a_generic_client_trains_and_predicts(generic: dict[str, Generic], picture: Callable[..., bytes]) -> None:
    """The whole line by what reflection tells: dataset, uploads, version, run, watch, model, prediction."""
    dataset, trainer, inference = (generic[name] for name in ("dataset", "trainer", "inference"))
    methods = {name: method for client in generic.values() for name, method in client.methods().items()}
    parent, name = "projects/default", "projects/default/datasets/outside"
    dataset.call(methods["CreateDataset"], {"parent": parent, "dataset_id": "outside"})
    steps: list[dict[str, Any]] = [{"open": {"dataset": name}}]
    for seed in range(12):
        label, colour = ("red", (210, 50, 50)) if seed % 2 else ("blue", (50, 50, 210))
        steps += [{"begin": {"client_ref": str(seed), "label": label}}, {"chunk": {"data": picture(seed, colour)}}]
        steps += [{"commit": {}}]
    verdicts = dataset.call(methods["UploadExamples"], *steps)
    assert [verdict.WhichOneof("verdict") for verdict in verdicts] == ["stored"] * 12
    dataset.call(methods["CreateDatasetVersion"], {"parent": name})
    run = trainer.call(methods["CreateTrainingRun"], {"parent": parent, "dataset": name})[0].training_run
    messages = trainer.call(methods["WatchTrainingRun"], {"name": run.name, "after_sequence": 0})
    assert messages[-1].finished.training_run.model_version == "projects/default/models/outside/versions/1"
    request = {"model": "projects/default/models/outside", "image": picture(999, (210, 50, 50))}
    answer = inference.call(methods["Predict"], request)[0]
    assert answer.predictions[0].label == "red"


def _grpcurl() -> str:
    cached = Path("~/.cache/handful/bin/grpcurl").expanduser()
    found = os.environ.get("HANDFUL_TEST_GRPCURL") or shutil.which("grpcurl") or (cached.is_file() and str(cached))
    if not found:
        pytest.skip("grpcurl is not on this machine: go install github.com/fullstorydev/grpcurl/cmd/grpcurl@latest")
    return found


def test_a_shell_calls_us(open_stack: Stack, picture: Callable[..., bytes], tmp_path: Path) -> None:
    """The commands of docs/calling.md, as they stand there: health by curl alone, prediction, formats, an export."""
    folder = Path(_grpcurl()).parent
    if shutil.which("curl") is None:
        pytest.skip("curl is not on this machine")
    for seed in range(12):
        label, colour = ("red", (210, 50, 50)) if seed % 2 else ("blue", (50, 50, 210))
        (tmp_path / "pictures" / label).mkdir(parents=True, exist_ok=True)
        (tmp_path / "pictures" / label / f"{seed}.jpg").write_bytes(picture(seed, colour))
    with Client(open_stack.addresses) as client:
        client.push("flowers", tmp_path / "pictures")
        client.train("flowers").result()
    text = (ROOT / "docs" / "calling.md").read_text()
    commands = text.partition("## From a shell")[2].partition("```sh\n")[2].partition("```")[0]
    for port, service in ((7102, "trainer"), (7103, "inference")):
        commands = commands.replace(f"127.0.0.1:{port}", getattr(open_stack.addresses, service))
    (tmp_path / "protos").symlink_to(ROOT / "protos")
    (tmp_path / "some.jpg").write_bytes(picture(999, (210, 50, 50)))
    surroundings = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["/bin/sh", "-ec", commands],
        cwd=tmp_path,
        env=surroundings,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    health, _, rest = done.stdout.partition("\n")
    assert health.split()[-2:] == ["08", "01"]
    decoder = json.JSONDecoder()
    answer, end = decoder.raw_decode(rest)
    assert answer["predictions"][0]["label"] == "red"
    listed, _ = decoder.raw_decode(rest[end:].lstrip())
    assert [one["name"] for one in listed["exportFormats"]] == list(FORMATS)
    with zipfile.ZipFile(tmp_path / "flowers.zip") as archive:
        assert json.loads(archive.read("export.json"))["format"] == "onnx-fp16"
        assert archive.testzip() is None


def test_grpcurl_calls_us(open_stack: Stack) -> None:
    """The calls of docs/calling.md work as they stand there."""
    grpcurl = _grpcurl()

    def call(address: str, *arguments: str) -> str:
        command = [grpcurl, "-plaintext", *arguments[:-1], address, arguments[-1]]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
        return done.stdout + done.stderr

    dataset, trainer = open_stack.addresses.dataset, open_stack.addresses.trainer
    assert "handful.v1.DatasetService" in call(dataset, "list").splitlines()
    body = json.dumps({"parent": "projects/default", "dataset_id": "by-hand"})
    made = json.loads(call(dataset, "-d", body, "handful.v1.DatasetService/CreateDataset"))
    assert made["dataset"]["name"] == "projects/default/datasets/by-hand"
    listed = json.loads(call(trainer, "handful.v1.TrainerService/ListRecipes"))
    assert {"fast", "baseline"} <= {preset["name"] for preset in listed["presets"]}
    refused = call(dataset, "-d", "{}", "handful.v1.DatasetService/CreateDataset")
    assert "InvalidArgument" in refused
    assert "parent" in refused
