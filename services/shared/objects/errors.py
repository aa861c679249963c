"""What can go wrong with objects.

ObjectMissing       there is none of that key
ObjectCorrupt       it is not what its SHA-256 says, or cannot be read whole
StoreUnavailable    the store cannot be reached, or cannot do it now; trying again may help
├── StoreFull       there is no room: trying again does not help until someone makes some
└── StoreRefused    it does not let us: trying again does not help until someone mends bucket, keys or policy
"""


class ObjectMissing(Exception):
    """There is no object of that key."""


class ObjectCorrupt(Exception):
    """The object is not what its SHA-256 says, or the store has it and cannot give its bytes."""


class StoreUnavailable(Exception):
    """The store cannot be reached, or cannot do it now; trying again may help."""


class StoreFull(StoreUnavailable):
    """There is no room."""


class StoreRefused(StoreUnavailable):
    """The store does not let us; the message says what to mend, and is for whoever runs the service."""
