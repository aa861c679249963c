"""A model of sounds made by hand: no network, loudness of bands alone. A low tone is low, a high one high."""

from __future__ import annotations

import io

import numpy as np
import soundfile
from safetensors.numpy import save

from handful.bundle import golden, manifest
from handful.bundle.heads import LinearHead
from handful.bundle.predictor import Backbone, to_inputs
from handful.v1 import bundle_pb2
from services.shared.objects import ObjectStore
from services.trainer.sound_architectures import SOUND_ARCHITECTURES
from services.trainer.worker import sound_graphs
from services.trainer.worker.pretrained import PretrainedWeights

ROW = SOUND_ARCHITECTURES["log_mel_statistics"]
LABELS = ("low", "high")
HERTZ = {"low": 200.0, "high": 6000.0}
RATE = 16_000


def tone(label: str, seconds: float = 1.0, kind: str = "WAV") -> bytes:
    """A file with the sound of a class."""
    wave = 0.3 * np.sin(2 * np.pi * HERTZ[label] * np.arange(round(seconds * RATE)) / RATE)
    buffer = io.BytesIO()
    soundfile.write(buffer, wave, RATE, format=kind)
    return buffer.getvalue()


def publish(store: ObjectStore, project: str = "default", control: bundle_pb2.ErrorControl | None = None) -> str:
    """Stores a bundle; the SHA-256 of its manifest."""
    graph, _ = sound_graphs.draw(ROW, PretrainedWeights(store))
    described = sound_graphs.describe(ROW)
    described.graph_sha256 = manifest.sha256(graph)
    head, body = _head(), Backbone(graph)
    tones = [tone(label) for label in LABELS]
    expected = np.concatenate([head.probabilities(body.of(to_inputs(one, described))) for one in tones])
    heard = {f"sound_{place}": np.frombuffer(one, np.uint8) for place, one in enumerate(tones)}
    files = {"head.safetensors": head.to_bytes(), golden.FILE: save({**heard, "probabilities": expected})}
    bundle = bundle_pb2.ModelManifest(
        format=manifest.MODEL_FORMAT,
        modality=bundle_pb2.MODALITY_SOUND,
        labels=LABELS,
        backbone=described,
        head=bundle_pb2.Head(normalization=head.normalization),
        error_control=control,
    )
    for path, content in sorted(files.items()):
        bundle.files.add(path=path, sha256=manifest.sha256(content), size_bytes=len(content))
    data = manifest.to_bytes(bundle)
    digest = manifest.sha256(data)
    store.put(manifest.graph_keys(project, described)[0], graph)
    for path, content in {**files, "manifest.json": data}.items():
        store.put(manifest.bundle_key(project, digest, path), content)
    return digest


def _head() -> LinearHead:
    """What is louder on average: the lower half of the bands, or the upper."""
    weight = np.zeros((len(LABELS), ROW.feature_width), np.float32)
    bands = ROW.spectrograms[0].bands
    weight[0, : bands // 2] = weight[1, bands // 2 : bands] = 0.05
    nothing = np.zeros(ROW.feature_width, np.float32)
    return LinearHead(bundle_pb2.Head.NORMALIZATION_NONE, weight, nothing[: len(LABELS)], nothing)
