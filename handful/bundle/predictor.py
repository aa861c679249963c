"""Running a trained model: its inputs, a backbone's graph and a head, without torch. Training and serving use it."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from handful.bundle import recordings, runtime, sounds
from handful.bundle.heads import Floats, LinearHead
from handful.bundle.images import Preprocessing, decode, fit
from handful.bundle.sounds import Inputs
from handful.v1.bundle_pb2 import BACKBONE_PRECISION_INT8, ImagePreprocessing, SoundPreprocessing, Spectrogram
from handful.v1.bundle_pb2 import Backbone as BackboneMessage

Pixels = npt.NDArray[np.uint8]


class Backbone:
    """A backbone's ONNX graph in ONNX Runtime, on so many threads a call; calls may come from several threads at once.
    MemoryError where memory does not suffice.
    """

    def __init__(self, graph: bytes, threads: int = 1) -> None:
        self._session = runtime.session(graph, threads)

    def features(self, pixels: Pixels) -> Floats:
        """float32[n, feature_width] of uint8[n, size, size, 3]."""
        return self.of({"pixels": pixels})

    def mapped(self, pixels: Pixels) -> tuple[Floats, Floats | None]:
        """The features, and float32[n, channels, rows, columns] that they were made of; None where the graph gives no
        such map.
        """
        names = [one.name for one in self._session.get_outputs()]
        if "feature_map" not in names:
            return self.features(pixels), None
        features, feature_map = runtime.run(self._session, ["features", "feature_map"], {"pixels": pixels})
        return features, feature_map

    def of(self, inputs: Inputs) -> Floats:
        """float32[n, feature_width] of the graph's inputs by name; of a sound n is 1."""
        features: Floats = runtime.run(self._session, ["features"], inputs)[0]
        return features


def numerics(backbone: BackboneMessage) -> str:
    """What computes features: runtime, version and precision. Features of other numerics are other features."""
    precision = "int8" if backbone.precision == BACKBONE_PRECISION_INT8 else "float32"
    return f"onnxruntime-{runtime.VERSION}-cpu-{precision}"


def to_pixels(data: bytes, preprocessing: ImagePreprocessing) -> Pixels:
    """An encoded picture as a backbone's input, uint8[size, size, 3]. BadImage where it is none."""
    how = plain(preprocessing)
    return np.asarray(fit(decode(data, how.draft), how))


def plain(preprocessing: ImagePreprocessing) -> Preprocessing:
    """Preprocessing as `images` takes it."""
    return Preprocessing(
        fit=ImagePreprocessing.Fit.Name(preprocessing.fit).removeprefix("FIT_").lower(),
        size=preprocessing.size,
        filter=preprocessing.filter,
        resize=preprocessing.resize,
        draft=preprocessing.draft,
    )


def to_inputs(data: bytes, backbone: BackboneMessage) -> Inputs:
    """An encoded picture, or a piece of a recording, as a backbone takes it. BadImage or BadSound where it is none."""
    if not backbone.HasField("sound_preprocessing"):
        return {"pixels": to_pixels(data, backbone.preprocessing)[None]}
    recording = recordings.decode(data)
    return sounds.inputs(recording.samples, recording.rate, spectrograms(backbone.sound_preprocessing))


def spectrograms(preprocessing: SoundPreprocessing) -> list[sounds.Spectrogram]:
    """Preprocessing as `sounds` takes it."""
    return [
        sounds.Spectrogram(
            name=one.name,
            layout=Spectrogram.Layout.Name(one.layout).removeprefix("LAYOUT_").lower(),
            sample_rate=one.sample_rate,
            peak=one.peak,
            silence=one.silence_seconds,
            fft=one.fft_size,
            window=one.window_size,
            hop=one.hop_size,
            bands=one.bands,
            low=one.low_hz,
            high=one.high_hz,
            frames=one.window_frames,
            stride=one.window_stride,
            scale=one.scale,
            offset=one.offset,
        )
        for one in preprocessing.spectrograms
    ]


@dataclass(frozen=True)
class Predictor:
    """A whole model: one backbone, one head, and the labels in the order of the logits."""

    labels: tuple[str, ...]
    preprocessing: ImagePreprocessing
    backbone: Backbone
    head: LinearHead

    def probabilities(self, pixels: Pixels) -> Floats:
        """float32[n, classes] of uint8[n, size, size, 3]."""
        return self.head.probabilities(self.backbone.features(pixels))


def best(labels: tuple[str, ...], probabilities: Floats, top_k: int) -> list[tuple[str, float]]:
    """The `top_k` most probable classes of one row, best first; equal ones in the order of the labels."""
    order = np.argsort(-probabilities, kind="stable")[:top_k]
    return [(labels[index], float(probabilities[index])) for index in order]
