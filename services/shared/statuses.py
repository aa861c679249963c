"""What went wrong inside, as one of the errors that callers get. Words of exceptions never reach them."""

from handful import errors
from services.shared.objects import ObjectCorrupt, ObjectMissing, StoreFull, StoreRefused, StoreUnavailable

_OF_OBJECTS: tuple[tuple[tuple[type[Exception], ...], type[errors.HandfulError], str, str], ...] = (
    ((StoreFull,), errors.ResourceExhausted, "STORE_FULL", "The object store is full."),
    (
        (StoreRefused,),
        errors.Unavailable,
        "STORE_REFUSED",
        "The object store refuses this service. Whoever runs it finds in its log what to mend.",
    ),
    ((StoreUnavailable,), errors.Unavailable, "DEPENDENCY_DOWN", "The object store cannot be reached. Try again."),
    (
        (ObjectMissing, ObjectCorrupt),
        errors.DataLoss,
        "BLOB_CORRUPT",
        "A stored object is missing, or is not what it was.",
    ),
)


def as_error(problem: BaseException) -> errors.HandfulError:
    """The error that a caller gets for what went wrong; Internal for a fault of ours."""
    if isinstance(problem, errors.HandfulError):
        return problem
    for kinds, error, reason, message in _OF_OBJECTS:
        if isinstance(problem, kinds):
            return _caused(error(message, reason=reason), problem)
    if isinstance(problem, MemoryError):
        message = "The server has not memory enough for this now. Try again later."
        return _caused(errors.ResourceExhausted(message, reason="OUT_OF_MEMORY"), problem)
    if isinstance(problem, TimeoutError):
        return errors.DeadlineExceeded("The call took longer than its deadline allows.")
    return errors.Internal("Something went wrong on our side. The log has it under the request id of this answer.")


def _caused(error: errors.HandfulError, problem: BaseException) -> errors.HandfulError:
    error.__cause__ = problem
    return error
