"""The catalogue of architectures for sounds: each is one or two bodies that look at spectrograms of a piece of a
recording. What builds their graphs lives in `worker/sound_graphs.py`.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from handful.v1 import bundle_pb2, trainer_pb2
from handful.v1.bundle_pb2 import BACKBONE_PRECISION_FLOAT32, MODALITY_SOUND, SoundPreprocessing, Spectrogram
from services.trainer.architectures import ARCHITECTURES, LOCK, PinnedWeights, WeightsState, describe_weights

# What a recipe says that leaves the choice to the training examples.
AUTO = "auto"
# As the dataset service cuts recordings. Longer pieces would take much memory: a second has 25 windows of speech.
PIECE_SECONDS = 6.0
SPEECH, PICTURES, STATISTICS = "speech", "pictures", "statistics"
SPEECH_EMBEDDING = "speech_embedding"
PICTURE_BODY = ARCHITECTURES["efficientnet_lite0"]

# Google's speech embedding (https://arxiv.org/abs/2002.01322) expects samples of 16 bits, and decibels / 10 + 2.
# The silence before lets a window see the beginning of a word alone, which is what tells words of a new speaker apart.
_SPEECH = Spectrogram(
    name=SPEECH,
    layout=Spectrogram.LAYOUT_WINDOWS,
    sample_rate=16_000,
    peak=0.5,
    silence_seconds=0.5,
    fft_size=512,
    window_size=400,
    hop_size=160,
    bands=32,
    low_hz=60.0,
    high_hz=3800.0,
    window_frames=76,
    window_stride=4,
    scale=0.1,
    offset=2 + 2 * math.log10(32_767),
)
# What can be heard of surroundings, in 128 bands.
_WIDE: dict[str, Any] = {
    "sample_rate": 32_000,
    "peak": 0.5,
    "fft_size": 1024,
    "window_size": 1024,
    "hop_size": 320,
    "bands": 128,
    "low_hz": 50.0,
    "high_hz": 14_000.0,
}
_PICTURES = Spectrogram(
    name=PICTURES,
    layout=Spectrogram.LAYOUT_PICTURES,
    **_WIDE,
    window_frames=PICTURE_BODY.preprocessing.size,
    window_stride=PICTURE_BODY.preprocessing.size // 2,
)
_STATISTICS = Spectrogram(
    name=STATISTICS,
    layout=Spectrogram.LAYOUT_STATISTICS,
    **_WIDE,
)


@dataclass(frozen=True, kw_only=True)
class SoundArchitectureRow:
    """An architecture for sounds: its inputs, each named after the body that takes it."""

    id: str
    description: str
    num_parameters: int
    # Multiply-adds for a piece of a second, in units of 1e9.
    gflops: float
    feature_width: int
    spectrograms: tuple[Spectrogram, ...]
    # The files that its bodies come from, by the id that their weights have.
    weights: Mapping[str, PinnedWeights]

    @property
    def preprocessing(self) -> SoundPreprocessing:
        return SoundPreprocessing(piece_seconds=PIECE_SECONDS, spectrograms=self.spectrograms)


_SPEECH_WEIGHTS = {SPEECH_EMBEDDING: PinnedWeights(**LOCK[SPEECH_EMBEDDING]["file"])}
_PICTURE_WEIGHTS = {PICTURE_BODY.id: PICTURE_BODY.weights} if PICTURE_BODY.weights else {}
_ROWS = (
    SoundArchitectureRow(
        id=SPEECH_EMBEDDING,
        description="Google's speech embedding, mean and largest over windows of 0.8 s: for words and voices.",
        num_parameters=330_496,
        gflops=0.14,
        feature_width=2 * 96,
        spectrograms=(_SPEECH,),
        weights=_SPEECH_WEIGHTS,
    ),
    SoundArchitectureRow(
        id="spectrogram_lite0",
        description="Spectrograms as pictures through EfficientNet-Lite0, mean and largest over windows of 2.2 s: for "
        "noises, machines, animals, surroundings.",
        num_parameters=PICTURE_BODY.num_parameters,
        gflops=PICTURE_BODY.gflops,
        feature_width=2 * PICTURE_BODY.feature_width,
        spectrograms=(_PICTURES,),
        weights=_PICTURE_WEIGHTS,
    ),
    SoundArchitectureRow(
        id="speech_and_spectrogram",
        description="speech_embedding and spectrogram_lite0 side by side.",
        num_parameters=330_496 + PICTURE_BODY.num_parameters,
        gflops=0.14 + PICTURE_BODY.gflops,
        feature_width=2 * 96 + 2 * PICTURE_BODY.feature_width,
        spectrograms=(_SPEECH, _PICTURES),
        weights=_SPEECH_WEIGHTS | _PICTURE_WEIGHTS,
    ),
    SoundArchitectureRow(
        id="log_mel_statistics",
        description="Mean, deviation, quantiles of the loudness of 128 bands; no weights: the floor to compare with.",
        num_parameters=0,
        gflops=0.0,
        feature_width=4 * 128,
        spectrograms=(_STATISTICS,),
        weights={},
    ),
)
SOUND_ARCHITECTURES: dict[str, SoundArchitectureRow] = {row.id: row for row in _ROWS}
# What AUTO chooses from; of equals the first.
CANDIDATES = ("speech_embedding", "spectrogram_lite0", "speech_and_spectrogram")


def graph_input(spectrogram: Spectrogram) -> tuple[str, tuple[int, ...]]:
    """What a graph takes of a spectrogram, as `Spectrogram.Layout` has it: which numbers, and their shape, where 0
    stands for as many as there are windows.
    """
    frames, bands = spectrogram.window_frames, spectrogram.bands
    if spectrogram.layout == Spectrogram.LAYOUT_STATISTICS:
        return "float32", (1, 4 * bands)
    if spectrogram.layout == Spectrogram.LAYOUT_WINDOWS:
        return "float32", (0, frames, bands, 1)
    return "uint8", (0, frames, frames, 3)


def can_be_had(had: set[str]) -> set[str]:
    """The architectures, AUTO among them, whose weights are all among those that are had, by the ids of the weights."""
    able = {row.id for row in _ROWS if set(row.weights) <= had}
    return able | {AUTO} if set(CANDIDATES) <= able else able


def message(row: SoundArchitectureRow, state: "WeightsState.ValueType") -> trainer_pb2.Architecture:
    shown = trainer_pb2.Architecture(
        id=row.id,
        description=row.description,
        modality=MODALITY_SOUND,
        num_parameters=row.num_parameters,
        gflops=row.gflops,
        feature_width=row.feature_width,
        sound_preprocessing=row.preprocessing,
        backbone_precisions=[BACKBONE_PRECISION_FLOAT32],
        weights_state=state,
    )
    describe_weights(shown, tuple(row.weights.values()))
    return shown


def modality(architecture: str) -> "bundle_pb2.Modality.ValueType":
    """Of which modality an architecture is."""
    return MODALITY_SOUND if architecture == AUTO or architecture in SOUND_ARCHITECTURES else bundle_pb2.MODALITY_IMAGE
