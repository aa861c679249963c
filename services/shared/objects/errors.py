"""What can go wrong with objects."""

import errno


class ObjectMissing(Exception):
    """There is no object of that key."""


class ObjectCorrupt(Exception):
    """The object is not what its SHA-256 says."""


class StoreUnavailable(Exception):
    """The store cannot be reached, or cannot write; trying again may help."""

    @property
    def is_full(self) -> bool:
        """Whether there is no room: trying again does not help."""
        return isinstance(self.__cause__, OSError) and self.__cause__.errno in (errno.ENOSPC, errno.EDQUOT)
