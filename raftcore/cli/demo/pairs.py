"""The key-value pairs that the demo writes: from a file of JSON lines, or made up."""

from __future__ import annotations

import itertools
import json
import random
from pathlib import Path

from raftcore.errors import ConfigError

MAX_KEY_BYTES = 4096
MAX_VALUE_BYTES = 512 * 1024
_CITIES = ("Athens", "Bergen", "Cusco", "Dakar", "Espoo", "Fez", "Graz", "Hanoi", "Izmir", "Jena")


def generate(path: Path, count: int) -> None:
    """Write `count` pairs, one JSON object a line: customers with a few facts each. The same ones every time."""
    rng = random.Random(count)
    with path.open("w", encoding="utf-8") as file:
        for number in range(count):
            facts = {"name": f"customer {number}", "city": rng.choice(_CITIES), "balance": rng.randrange(1_000_000)}
            pair = {"key": f"customer/{number:08d}", "value": json.dumps(facts)}
            file.write(f"{json.dumps(pair)}\n")


def read(path: Path, most: int | None) -> dict[str, bytes]:
    """The first `most` pairs (None: all). A value that is not a string is stored as JSON. Raises `ConfigError`."""
    pairs: dict[str, bytes] = {}
    with path.open("rb") as file:
        for number, line in enumerate(itertools.islice(file, most), 1):
            key, value = _pair(f"{path}: line {number}", line)
            if key in pairs:
                raise ConfigError(f"{path}: line {number}: the key '{key}' has occurred before; give each key once")
            pairs[key] = value
    if not pairs:
        raise ConfigError(f'{path}: there are no pairs; write a line {{"key": …, "value": …}} for each')
    return pairs


def _pair(place: str, line: bytes) -> tuple[str, bytes]:
    try:
        found = json.loads(line)
        key, value = found["key"], found["value"]
        encoded = key.encode()
        data = value.encode() if isinstance(value, str) else json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, TypeError, KeyError, AttributeError):
        raise ConfigError(f'{place}: not a JSON object with a text "key" and a "value"; correct the line') from None
    if not 0 < len(encoded) <= MAX_KEY_BYTES or len(data) > MAX_VALUE_BYTES:
        raise ConfigError(
            f"{place}: a key of {len(encoded)} bytes and a value of {len(data)}; a key has 1 to {MAX_KEY_BYTES} "
            f"bytes, a value at most {MAX_VALUE_BYTES}"
        )
    return key, data
