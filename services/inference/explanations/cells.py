"""Pictures and sounds with one cell of a grid covered. They know no models."""

import numpy as np
import numpy.typing as npt

from handful.bundle.heads import Floats
from handful.bundle.predictor import Pixels
from handful.bundle.sounds import Samples

# A frame of this many seconds has what is heard at a moment; bands are cut between its frequencies.
FRAME_SECONDS = 0.032
LOWEST_HERTZ = 60.0
# How a sound is shown: so many rows of pitches, and what is this far below the loudest is black.
ROWS = 192
SHOWN_DB = 60.0


def covered(pixels: Pixels, row: int, column: int, grid: int) -> Pixels:
    """A picture, uint8[height, width, 3], whose cell is its mean colour."""
    height, width = pixels.shape[:2]
    top, bottom = height * row // grid, height * (row + 1) // grid
    left, right = width * column // grid, width * (column + 1) // grid
    copy = pixels.copy()
    copy[top:bottom, left:right] = pixels.mean(axis=(0, 1)).round().astype(np.uint8)
    return copy


class Bands:
    """A sound as the sum of its cells, times by bands, so that one can be left out.

    Frames overlap by half under a Hann window, whose copies sum to 1; a cell is what its frames have in its band. Bands
    end at the highest frequency in Hz, beyond which nothing is left out.
    """

    def __init__(self, samples: Samples, rate: int, highest: float, times: int, bands: int) -> None:
        self._rate, self._length = rate, len(samples)
        self._size = max(2 * round(rate * FRAME_SECONDS / 2), 4)
        half = self._size // 2
        padded = np.pad(samples, (half, self._size))
        frames = np.lib.stride_tricks.sliding_window_view(padded, self._size)[::half]
        window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(self._size) / self._size)
        self._spectra = np.fft.rfft(frames * window, axis=1)
        self._samples = samples
        self.hertz = edges(min(highest, rate / 2), bands)
        self._bins = np.round(self.hertz / rate * self._size).astype(int)
        self._moments = np.linspace(0, len(frames), times + 1).round().astype(int)

    def without(self, time: int, band: int) -> Samples:
        """The sound, float32[n], without a cell; band 0 is the lowest."""
        first, last = self._moments[time : time + 2]
        low, high = self._bins[band : band + 2]
        kept = np.zeros_like(self._spectra[first:last])
        kept[:, low:high] = self._spectra[first:last, low:high]
        pieces = np.fft.irfft(kept, self._size, axis=1)
        half = self._size // 2
        cell = np.zeros(self._length + 2 * self._size, np.float32)
        for place, piece in enumerate(pieces, int(first)):
            cell[place * half : place * half + self._size] += piece
        left: Samples = (self._samples - cell[half : half + self._length]).astype(np.float32)
        return left

    def loudness(self) -> Floats:
        """float32[ROWS, frames], from 0, 60 dB below the loudest, to 1: high pitches in the first rows."""
        pitches = edges(self.hertz[-1], ROWS)[1:][::-1]
        bins = np.round(pitches / self._rate * self._size).astype(int)
        power = np.abs(self._spectra[:, bins].T) ** 2
        decibels = 10 * np.log10(np.maximum(power, 1e-12))
        shown: Floats = np.clip(1 + (decibels - decibels.max()) / SHOWN_DB, 0, 1).astype(np.float32)
        return shown


def edges(highest: float, bands: int) -> npt.NDArray[np.float64]:
    """Frequencies in Hz between which bands lie: equal steps of pitch from 60 Hz to the highest; the first from 0."""
    found = np.geomspace(LOWEST_HERTZ, highest, bands + 1)
    found[0] = 0.0
    return found
