"""Hostile pictures and sounds against every call of the inference service that takes one, on a server of its own: each
has its status and its reason, and the server is as well afterwards as before.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import soundfile
from grpc_health.v1 import health_pb2, health_pb2_grpc
from PIL import Image

from handful.errors import HandfulError, from_rpc_error
from handful.v1 import inference_pb2_grpc
from handful.v1.inference_pb2 import (
    ExplainRequest,
    PredictBatchRequest,
    PredictError,
    PredictRequest,
    StreamPredictRequest,
)
from services.inference.oip.v2 import open_inference_pb2 as oip
from services.inference.oip.v2 import open_inference_pb2_grpc as oip_grpc
from services.shared.objects.filesystem import FilesystemStore
from services.shared.server import MEBIBYTE
from tests import sound_bundles
from tests.bundles import COLOURS, point, publish
from tests.inference_process import InferenceProcess, inference
from tests.processes import alive
from tests.rpc.test_open_inference import raw_bytes
from tests.unit import test_images, test_recordings
from tests.unit.test_images import encoded, noise, png
from tests.unit.test_recordings import RATE, file, tone, wav

OK = "OK"
# Above what the process has with its models loaded: for a while, of a picture of 16 megapixels with transparency; and
# once all is answered, what threads keep of sounds of minutes.
MORE_AT_MOST, MORE_LEFT = 400 * MEBIBYTE, 200 * MEBIBYTE
# Threads of pools that come with the work, each once; files that are hostile are hundreds.
MORE_HELD = 10
SECONDS = 30.0
MODELS = {"image": "flowers", "sound": "voices"}
LABELS = {"image": "red", "sound": "low"}


def _red() -> bytes:
    return encoded(Image.new("RGB", (64, 48), COLOURS["red"]), "PNG")


GOOD: dict[str, bytes] = {"image": _red(), "sound": sound_bundles.tone("low")}


def _ogg(seconds: int) -> bytes:
    """Silence, written second by second: written at once, it ends libsndfile."""
    buffer = io.BytesIO()
    with soundfile.SoundFile(buffer, "w", 8000, 1, format="OGG", subtype="VORBIS") as sound:
        for _ in range(seconds):
            sound.write(np.zeros(8000))
    return buffer.getvalue()


def _cut(kind: str) -> dict[str, bytes]:
    whole = encoded(noise(), kind)
    return {f"{kind} cut at {part}/16": whole[: len(whole) * part // 16] for part in range(16)}


def _pictures() -> Iterator[tuple[str, bytes, str]]:
    """What each is, the file, and the reason why it is refused, or OK."""
    yield from ((case, make(), reason) for case, (make, reason) in test_images.HOSTILE.items())
    for kind in ("JPEG", "PNG", "WEBP"):
        yield from ((case, data, "CORRUPT_MEDIA") for case, data in _cut(kind).items())
    yield "a sound", GOOD["sound"], "UNSUPPORTED_FORMAT"
    yield from ((case, data, OK) for case, data in test_images.ODD.items())
    yield from ((case, data, OK) for case, (data, _) in test_images.GOLDEN.items())
    yield "16 megapixels with transparency", png((4000, 4000), (b"\0" + bytes(8000)) * 4000, colour=4), OK


def _sounds() -> Iterator[tuple[str, bytes, str]]:
    for case, (make, reason) in test_recordings.HOSTILE.items():
        yield case, make(), OK if reason == "CLIPPED" else reason  # too loud to learn from, not to be told
    yield "a real picture", GOOD["image"], "UNSUPPORTED_FORMAT"
    yield "two thousand channels", wav(channels=2000, data=bytes(8000)), "CORRUPT_MEDIA"
    yield "ten minutes of silence in OGG", _ogg(600), "SOUND_TOO_LONG"
    yield "eight channels at a high rate", file(np.full((9 * 192_000, 8), 0.1), 192_000, "FLAC"), "SOUND_TOO_LONG"
    yield "a size that is a lie", wav(data=(3000 * tone()[:, 0]).astype("<i2").tobytes(), size=0xFFFFFFF0), OK
    yield "a WAV that is cut off", file(tone())[: RATE // 2], OK
    yield "an MP3 behind a tag of 20 MiB", _behind_a_tag(20 * MEBIBYTE), OK
    yield "more than 32 MiB", file(tone()) + bytes(32 * MEBIBYTE), "FILE_TOO_LARGE"


def _behind_a_tag(size: int) -> bytes:
    parts = bytes(size >> shift & 0x7F for shift in (21, 14, 7, 0))
    return b"ID3\x04\0\0" + parts + bytes(size) + file(tone(), kind="MP3")


@dataclass(frozen=True)
class Caller:
    """Asks a server in every way that takes a picture or a sound. An answer is OK, or a code and a reason."""

    ours: inference_pb2_grpc.InferenceServiceStub
    theirs: oip_grpc.GRPCInferenceServiceStub
    health: health_pb2_grpc.HealthStub

    def predict(self, kind: str, data: bytes) -> str:
        answer = self.ours.Predict(self._request(kind, data), timeout=SECONDS)
        return _labelled(answer.predictions[0].label, kind, data)

    def predict_batch(self, kind: str, data: bytes) -> str:
        files: dict[str, Any] = {f"{kind}s": [GOOD[kind], data, GOOD[kind]]}
        request = PredictBatchRequest(model=_model(kind), **files)
        first, asked, last = self.ours.PredictBatch(request, timeout=SECONDS).results
        assert {one.prediction.predictions[0].label for one in (first, last)} == {LABELS[kind]}
        return _in_band(asked.error) if asked.HasField("error") else OK

    def stream_predict(self, kind: str, data: bytes) -> str:
        files = {"first": GOOD[kind], "asked": data, "last": GOOD[kind]}
        requests = [
            StreamPredictRequest(request_id=id_, predict=self._request(kind, one)) for id_, one in files.items()
        ]
        answers = {one.request_id: one for one in self.ours.StreamPredict(iter(requests), timeout=SECONDS)}
        assert {answers[id_].prediction.predictions[0].label for id_ in ("first", "last")} == {LABELS[kind]}
        return _in_band(answers["asked"].error) if answers["asked"].HasField("error") else OK

    def explain(self, kind: str, data: bytes) -> str:
        file: dict[str, Any] = {kind: data}
        request = ExplainRequest(model=_model(kind), **file)
        return _labelled(self.ours.Explain(request, timeout=SECONDS).label, kind, data)

    def infer_raw(self, kind: str, data: bytes) -> str:
        self.theirs.ModelInfer(_raw(kind, data), timeout=SECONDS)
        return OK

    def infer_typed(self, kind: str, data: bytes) -> str:
        request = _raw(kind, data)
        request.ClearField("raw_input_contents")
        request.inputs[0].contents.bytes_contents.append(data)
        self.theirs.ModelInfer(request, timeout=SECONDS)
        return OK

    def stream_infer(self, kind: str, data: bytes) -> str:
        """Its errors have a code in their text, and no reason."""
        requests = [_raw(kind, one) for one in (GOOD[kind], data, GOOD[kind])]
        first, asked, last = self.theirs.ModelStreamInfer(iter(requests), timeout=SECONDS)
        assert first.error_message == last.error_message == ""
        return str(asked.error_message.partition(":")[0]) or OK

    def asked(self, way: Callable[[Caller, str, bytes], str], kind: str, data: bytes) -> str:
        """How a question in one of these ways is answered."""
        try:
            return way(self, kind, data)
        except grpc.RpcError as problem:
            error: HandfulError = from_rpc_error(problem)
            return f"{error.code.name} {error.reason}"

    def _request(self, kind: str, data: bytes) -> PredictRequest:
        file: dict[str, Any] = {kind: data}
        return PredictRequest(model=_model(kind), **file)


WAYS: tuple[Callable[[Caller, str, bytes], str], ...] = (
    Caller.predict,
    Caller.predict_batch,
    Caller.stream_predict,
    Caller.explain,
    Caller.infer_raw,
    Caller.infer_typed,
    Caller.stream_infer,
)


def _model(kind: str) -> str:
    return f"projects/default/models/{MODELS[kind]}"


def _raw(kind: str, data: bytes) -> oip.ModelInferRequest:
    tensor = oip.ModelInferRequest.InferInputTensor(name=kind, datatype="BYTES", shape=[1])
    return oip.ModelInferRequest(model_name=MODELS[kind], inputs=[tensor], raw_input_contents=[raw_bytes(data)])


def _labelled(label: str, kind: str, data: bytes) -> str:
    assert data != GOOD[kind] or label == LABELS[kind]
    return OK


def _in_band(error: PredictError) -> str:
    code = next(one for one in grpc.StatusCode if one.value[0] == error.code)
    assert error.message
    return f"{code.name} {error.reason}"


def _held(pid: int) -> dict[str, int]:
    """How many threads and descriptors a process has."""
    return {name: len(list(Path(f"/proc/{pid}/{name}").iterdir())) for name in ("task", "fd")}


def _peak_bytes(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("VmHWM")).split()[1])


@dataclass(frozen=True)
class Served:
    """A server with a model of pictures and one of sounds, and what it was like before."""

    process: InferenceProcess
    temporary: Path
    caller: Caller
    before: dict[str, int]
    memory_bytes: int

    def check_well(self) -> None:
        """The same process answers rightly, in every way, holds no more than before, and never held much more."""
        for way in WAYS:
            assert [self.caller.asked(way, kind, GOOD[kind]) for kind in GOOD] == [OK, OK], way.__name__
        serving = self.caller.health.Check(health_pb2.HealthCheckRequest()).status
        assert serving == health_pb2.HealthCheckResponse.SERVING
        assert alive(self.process.pid)
        assert all(many < self.before[name] + MORE_HELD for name, many in _held(self.process.pid).items())
        assert not list(self.temporary.iterdir())
        assert _peak_bytes(self.process.pid) < self.memory_bytes + MORE_AT_MOST
        assert self.process.memory_bytes < self.memory_bytes + MORE_LEFT


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    home, temporary = (tmp_path_factory.mktemp(name) for name in ("home", "temporary"))
    store = FilesystemStore(home / "store")
    point(store, {"flowers": [publish(store)], "voices": [sound_bundles.publish(store)]})
    settings = {"TMPDIR": str(temporary), "HANDFUL_INFERENCE_THREADS": "2", "HANDFUL_INFERENCE_RUNTIME": "onnxruntime"}
    with inference(home, **settings) as process:
        options = [("grpc.max_send_message_length", -1)]
        with grpc.insecure_channel(process.address, options=options) as channel:
            stubs = inference_pb2_grpc.InferenceServiceStub(channel), oip_grpc.GRPCInferenceServiceStub(channel)
            caller = Caller(*stubs, health_pb2_grpc.HealthStub(channel))
            for way in WAYS:
                assert [caller.asked(way, kind, GOOD[kind]) for kind in GOOD] == [OK, OK]
            yield Served(process, temporary, caller, _held(process.pid), process.memory_bytes)


@pytest.fixture(scope="module")
def hostile() -> dict[str, list[tuple[str, bytes, str]]]:
    return {"image": list(_pictures()), "sound": list(_sounds())}


@pytest.mark.parametrize("kind", GOOD)
@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_a_hostile_file_is_refused_with_its_reason_and_the_server_stays_well(
    served: Served,
    hostile: dict[str, list[tuple[str, bytes, str]]],
    kind: str,
    way: Callable[[Caller, str, bytes], str],
) -> None:
    """Whatever is sent in the place of a picture or sound, in every way; what is only odd is answered."""
    found, expected = {}, {}
    for case, data, reason in hostile[kind]:
        found[case] = served.caller.asked(way, kind, data)
        expected[case] = OK if reason == OK else f"INVALID_ARGUMENT {reason}"
        if way == Caller.stream_infer:
            expected[case] = expected[case].partition(" ")[0]
    assert found == expected
    served.check_well()
