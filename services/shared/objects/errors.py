"""What can go wrong with objects."""


class ObjectMissing(Exception):  # noqa: N818
    """There is no object of that key."""


class ObjectCorrupt(Exception):  # noqa: N818
    """The object is not what its SHA-256 says."""


class StoreUnavailable(Exception):  # noqa: N818
    """The store cannot be reached, or cannot write; trying again may help."""
