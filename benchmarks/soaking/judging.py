"""Whether a server gathers memory, descriptors or threads, from what was seen of it, and how sure that is.

The first third of what was seen is warm-up. Through the rest a line is drawn by least squares; the 95 % interval of its
slope is Student's, from the residuals, with the number of independent samples reduced for their correlation with the
one before (Santer et al. 2000, https://doi.org/10.1029/1999JD901105). The server holds where the whole interval is at
most 8 MiB/h, and leaks where the whole of it is above; in between this says that it cannot tell. Descriptors and
threads hold where the last sample has no more than the first.

How wide the interval is hangs on what else the machine does: on a loaded one, of two cores, half an hour told 60 MiB/h
from none, and what tells 8 from none is some hours.
"""

from collections.abc import Sequence

import numpy as np
from scipy import stats

MIB_PER_HOUR = 8.0
# Seconds, resident bytes, descriptors, threads.
Sample = tuple[float, int, int, int]


def slope(seconds: Sequence[float], mebibytes: Sequence[float]) -> tuple[float, float, float]:
    """MiB per hour, and the ends of its 95 % interval, as the head of this file says."""
    hours, values = np.array(seconds) / 3600, np.array(mebibytes)
    fitted = stats.linregress(hours, values)
    residuals = values - fitted.intercept - fitted.slope * hours
    spread = float((residuals**2).sum())
    alike = max(0.0, float((residuals[1:] * residuals[:-1]).sum()) / spread) if spread else 0.0
    independent = max(3.0, len(values) * (1 - alike) / (1 + alike))
    error = np.sqrt(spread / (independent - 2) / ((hours - hours.mean()) ** 2).sum())
    half = float(stats.t.ppf(0.975, independent - 2) * error)
    return float(fitted.slope), float(fitted.slope) - half, float(fitted.slope) + half


def judge(samples: Sequence[Sample]) -> bool:
    """Prints what was found; whether the server holds."""
    judged = samples[len(samples) // 3 :]
    mebibytes = [memory / 2**20 for _, memory, _, _ in judged]
    found, low, high = slope([seconds for seconds, _, _, _ in judged], mebibytes)
    print(f"MiB: {' '.join(f'{one:.1f}' for one in mebibytes)}")
    said = "holds" if high <= MIB_PER_HOUR else "leaks" if low > MIB_PER_HOUR else "cannot tell: ask for longer"
    print(f"memory: {found:+.1f} MiB/h ({low:+.1f} to {high:+.1f}), at most {MIB_PER_HOUR:g} allowed: {said}")
    for name, column in (("descriptors", 2), ("threads", 3)):
        print(f"{name}: {' '.join(str(one[column]) for one in judged)}")
    first, last = judged[0], judged[-1]
    return high <= MIB_PER_HOUR and last[2] <= first[2] and last[3] <= first[3]
