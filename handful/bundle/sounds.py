"""Sounds: from samples to what a backbone takes, log-mel spectrograms in one of several layouts. The same code in
training and in serving; exported models carry this very file. It needs numpy alone and opens no file: see recordings.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

Samples = npt.NDArray[np.float32]
Inputs = dict[str, npt.NDArray[Any]]

# Below the loudest of a sound, in dB, everything counts as silence; powers have no logarithm at 0.
FLOOR_DB = 80.0
SMALLEST_POWER = 1e-10
# Rates are converted by fractions whose denominator is no larger than this. Those that recorders have are met exactly;
# any whole rate from 4,000 to 192,000 Hz is off by less than 0.08 % (a semitone is 6 %), the most beside 1/10 of it.
MAX_RATIO = 700
# How many samples are copied at a time while a rate is converted.
PART_SAMPLES = 1 << 20
# Crossings of zero on either side of the interpolating function, and where it begins to cut, as a share of the lower
# of the two Nyquist frequencies.
CROSSINGS, ROLL_OFF = 16, 0.95
# What a picture of a spectrogram has where there is nothing to hear.
_BLACK = 0
_LEVELS = 255


@dataclass(frozen=True)
class Spectrogram:
    """How samples become one input of a backbone's graph, called `name`.

    Samples are brought to `sample_rate` and to the largest magnitude `peak`, with `silence` seconds of zeros before and
    after. Frames of `fft` samples, `hop` apart, under a Hann window of `window` samples in their middle, become powers
    in `bands` mel bands (Slaney's, of equal area) from `low` to `high` Hz, and decibels, at most 80 below the largest.
    `layout` says what becomes of those, float32[frames, bands]:

    - `windows`: float32[n, frames, bands, 1] of `frames` frames each, `stride` apart, as decibels x `scale` + `offset`;
    - `pictures`: uint8[n, frames, frames, 3], as pictures: time to the right, low bands below, black the floor;
    - `statistics`: float32[1, 4 x bands], mean, deviation, 10 % and 90 % quantile of each band over time, in units of
      80 dB below the largest.
    """

    name: str
    layout: str
    sample_rate: int
    peak: float
    silence: float
    fft: int
    window: int
    hop: int
    bands: int
    low: float
    high: float
    frames: int = 0
    stride: int = 0
    scale: float = 0.0
    offset: float = 0.0


def inputs(samples: Samples, rate: int, spectrograms: Sequence[Spectrogram]) -> Inputs:
    """What a graph takes of a sound: samples float32[n] at a rate in Hz."""
    return {one.name: _input(samples, rate, one) for one in spectrograms}


def pieces(num_samples: int, rate: int, seconds: float) -> list[tuple[int, int]]:
    """Where a recording is cut, as first and last sample (exclusive): pieces of equal length, none longer than so many
    seconds.
    """
    count = max(1, math.ceil(num_samples / (rate * seconds)))
    ends = [num_samples * place // count for place in range(count + 1)]
    return list(pairwise(ends))


def resample(samples: Samples, rate: int, wanted: int) -> Samples:
    """The same sound at another rate, by band-limited interpolation (J. O. Smith, https://ccrma.stanford.edu/~jos/resample).
    Beside the samples and the new ones it takes some megabytes, whatever the length.
    """
    ratio = Fraction(wanted, rate).limit_denominator(MAX_RATIO)
    if ratio == 1:
        return samples
    kernel, before = _kernel(ratio.numerator, ratio.denominator)
    (length, up), step = kernel.shape, ratio.denominator
    count = math.ceil(len(samples) * ratio)
    blocks = math.ceil(count / up)
    converted = np.empty((blocks, up), np.float32)
    # BLAS takes a copy of what overlaps, `length / step` times as large: of a part at a time.
    at_once = max(1, PART_SAMPLES // length)
    for first in range(0, blocks, at_once):
        last = min(first + at_once, blocks)
        begin, end = first * step - before, (last - 1) * step - before + length
        part = np.pad(samples[max(0, begin) : end], (max(0, -begin), max(0, end - max(len(samples), begin))))
        converted[first:last] = np.lib.stride_tricks.sliding_window_view(part, length)[::step] @ kernel
    return converted.reshape(-1)[:count]


@lru_cache(maxsize=8)
def _kernel(up: int, down: int) -> tuple[npt.NDArray[np.float32], int]:
    """float32[samples, up]: what `down` samples and those around them add to `up` new ones; and how many are before."""
    cut = ROLL_OFF * min(1.0, up / down)
    reach = math.ceil(CROSSINGS / cut)
    # Of new sample j, in old samples, and of the old samples around.
    time = np.arange(-reach, down + reach + 1)[:, None] - np.arange(up)[None] * down / up
    inside = np.clip(time / reach, -1, 1)
    kernel = cut * np.sinc(cut * time) * np.cos(np.pi / 2 * inside) ** 2
    return kernel.astype(np.float32), reach


def _input(samples: Samples, rate: int, how: Spectrogram) -> npt.NDArray[Any]:
    decibels = log_mel(_levelled(resample(samples, rate, how.sample_rate), how), how)
    if how.layout == "windows":
        return _windows(decibels * np.float32(how.scale) + np.float32(how.offset), how)[..., None]
    # From 0, the floor, to 1.
    heard = (decibels - (decibels.max() - np.float32(FLOOR_DB))) / np.float32(FLOOR_DB)
    if how.layout == "pictures":
        return _pictures(_windows(heard, how), how.frames)
    if how.layout != "statistics":
        raise ValueError(f"unknown layout {how.layout}")
    quantiles = np.quantile(heard, (0.1, 0.9), axis=0)
    return np.concatenate([heard.mean(axis=0), heard.std(axis=0), *quantiles]).astype(np.float32)[None]


def _levelled(samples: Samples, how: Spectrogram) -> Samples:
    loudest = float(np.abs(samples).max(initial=0.0))
    quiet = np.zeros(round(how.silence * how.sample_rate), np.float32)
    levelled: Samples = np.concatenate([quiet, samples * np.float32(how.peak / max(loudest, 1e-9)), quiet])
    return np.pad(levelled, (0, max(0, how.fft - len(levelled))))


def log_mel(samples: Samples, how: Spectrogram) -> Samples:
    """Decibels float32[frames, bands] of samples at the spectrogram's rate, at least `fft` of them."""
    frames = np.lib.stride_tricks.sliding_window_view(samples, how.fft)[:: how.hop]
    spectrum = np.fft.rfft(frames * _hann(how.fft, how.window), axis=1)
    power = (spectrum.real**2 + spectrum.imag**2).astype(np.float32) @ _mel(how)
    decibels = 10 * np.log10(np.maximum(power, np.float32(SMALLEST_POWER)))
    floored: Samples = np.maximum(decibels, decibels.max() - np.float32(FLOOR_DB)).astype(np.float32)
    return floored


@lru_cache(maxsize=8)
def _hann(fft: int, window: int) -> Samples:
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window)
    before = (fft - window) // 2
    return np.pad(hann, (before, fft - window - before)).astype(np.float32)


@lru_cache(maxsize=8)
def _mel(how: Spectrogram) -> Samples:
    """float32[fft // 2 + 1, bands]: triangles of equal area on the mel scale of M. Slaney, Auditory Toolbox, 1998."""
    lowest, highest = _to_mel(np.array([how.low, how.high])).tolist()
    edges = _to_hertz(np.linspace(lowest, highest, how.bands + 2))
    left, middle, right = edges[:-2], edges[1:-1], edges[2:]
    frequency = np.arange(how.fft // 2 + 1)[:, None] * how.sample_rate / how.fft
    rising, falling = (frequency - left) / (middle - left), (right - frequency) / (right - middle)
    bank: Samples = (np.maximum(0, np.minimum(rising, falling)) * (2 / (right - left))).astype(np.float32)
    return bank


# Linear up to 1000 Hz, which is 15 mel; above, 27 mel are a factor of 6.4.
_KNEE_HERTZ, _KNEE_MEL, _STEP = 1000.0, 15.0, math.log(6.4) / 27


def _to_mel(hertz: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    above = _KNEE_MEL + np.log(np.maximum(hertz, 1.0) / _KNEE_HERTZ) / _STEP
    return np.where(hertz < _KNEE_HERTZ, hertz * (_KNEE_MEL / _KNEE_HERTZ), above)


def _to_hertz(mel: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.where(mel < _KNEE_MEL, mel * (_KNEE_HERTZ / _KNEE_MEL), _KNEE_HERTZ * np.exp((mel - _KNEE_MEL) * _STEP))


def _windows(values: Samples, how: Spectrogram) -> Samples:
    """float32[n, frames, bands]; what is too short for one is followed by its smallest value."""
    missing = max(0, how.frames - len(values))
    padded = np.pad(values, ((0, missing), (0, 0)), constant_values=values.min())
    count = 1 + (len(padded) - how.frames) // how.stride
    return np.stack([padded[place * how.stride :][: how.frames] for place in range(count)])


def _pictures(windows: Samples, size: int) -> npt.NDArray[np.uint8]:
    """uint8[n, size, size, 3] of float32[n, size, bands] from 0 to 1; bands are stretched to the picture's height."""
    bands = windows.shape[2]
    place = np.clip((np.arange(size) + 0.5) * bands / size - 0.5, 0, bands - 1)
    lower = np.minimum(place.astype(int), bands - 2)
    share = (place - lower).astype(np.float32)
    stretched = windows[:, :, lower] * (1 - share) + windows[:, :, lower + 1] * share
    levels = np.round(stretched * _LEVELS).clip(_BLACK, _LEVELS).astype(np.uint8)
    upright = levels.transpose(0, 2, 1)[:, ::-1]
    return np.repeat(upright[..., None], 3, axis=3)
