"""Whether a server gathers memory, descriptors or threads, from what was seen of it, and how sure that is.

The first third of what was seen is warm-up. The slope of the rest is Theil and Sen's, the median of those between any
two samples: a few at which the server had not finished do not move it. Its 95 % interval is theirs, wider by the
correlation of what is left with the one before (after Santer et al. 2000, https://doi.org/10.1029/1999JD901105), by
ranks. The server holds where the whole interval is within 8 MiB/h, up or down, and leaks where the whole of it is
above; otherwise this says that it cannot tell: one that still gives back what it took to start would hide what it
gathers meanwhile. So one that gathers just 8 MiB/h is said to hold about once in forty times, and which leak is found
as surely is said beside. Descriptors hold where the last sample has no more than the first, threads where it has no
more than the one half-way: a pool takes its last thread when all others are busy for once, and what gathers goes on.
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
    found, _, low, high = map(float, stats.theilslopes(values, hours, 0.95))
    ranks = stats.rankdata(values - found * hours)
    alike = max(0.0, float(np.corrcoef(ranks[1:], ranks[:-1])[0, 1]))
    wider = float(np.sqrt((1 + alike) / (1 - alike)))
    return found, found - wider * (found - low), found + wider * (high - found)


def judge(samples: Sequence[Sample]) -> bool:
    """Prints what was found; whether the server holds."""
    judged = samples[len(samples) // 3 :]
    mebibytes = [memory / 2**20 for _, memory, _, _ in judged]
    found, low, high = slope([seconds for seconds, _, _, _ in judged], mebibytes)
    holds = low >= -MIB_PER_HOUR and high <= MIB_PER_HOUR
    said = "holds" if holds else "leaks" if low > MIB_PER_HOUR else "cannot tell: ask for longer"
    print(f"memory: {found:+.1f} MiB/h ({low:+.1f} to {high:+.1f}), at most {MIB_PER_HOUR:g} allowed: {said}")
    print(f"found in 39 of 40 times: a leak of {MIB_PER_HOUR + high - low:.1f} MiB/h")
    first, halfway, last = judged[0], judged[len(judged) // 2], judged[-1]
    threads = f"{first[3]}, half-way {halfway[3]}, at last {last[3]}"
    print(f"descriptors: {first[2]}, at last {last[2]}; threads: {threads}")
    return holds and last[2] <= first[2] and last[3] <= halfway[3]
