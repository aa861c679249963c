"""What can go wrong with objects."""


class ObjectMissing(Exception):
    """There is no object of that key."""


class ObjectCorrupt(Exception):
    """The object is not what its SHA-256 says."""


class StoreUnavailable(Exception):
    """The store cannot be reached, or cannot write; trying again may help."""
