"""Ids that sort by the time they were made, and the clock that stands in rows."""

import secrets
import time
import uuid

from google.protobuf.timestamp_pb2 import Timestamp


def new_id() -> str:
    """A UUIDv7 as text (RFC 9562, section 5.7): 48 bits of milliseconds, then random bits."""
    milliseconds = time.time_ns() // 1_000_000
    high, low = divmod(secrets.randbits(12 + 62), 1 << 62)
    value = milliseconds << 80 | 0x7 << 76 | high << 64 | 0b10 << 62 | low
    return str(uuid.UUID(int=value))


def now_us() -> int:
    """Microseconds since 1970, UTC: what rows hold."""
    return time.time_ns() // 1000


def timestamp(microseconds: int | None) -> Timestamp | None:
    """A row's time as a message has it."""
    if microseconds is None:
        return None
    message = Timestamp()
    message.FromMicroseconds(microseconds)
    return message
