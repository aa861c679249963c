"""What a key may look like: parts of letters, digits, `.`, `_`, `-`, none beginning with a dot, joined by `/`."""

import re

KEY = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*")
