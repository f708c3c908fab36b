"""Options of every shape that a plugin may ask for, checked."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any

import msgspec
import pytest

from raftcore.errors import ConfigError
from raftcore.plugins import Secret
from raftcore.plugins.options import Text, convert

Name = Annotated[str, msgspec.Meta(min_length=2)]


class Inner(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A table inside."""

    size: int = 1


class Everything(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Options of unusual types."""

    tags: set[int] = set()
    ranks: dict[Name, list[int]] = {}
    secrets: dict[str, Secret] = {}
    inner: Inner | None = None
    many: list[Inner] = []
    price: Decimal = Decimal(0)
    root: Path = Path("/")
    free: dict[str, Any] = {}


def fitted(raw: dict[str, Any], environ: dict[str, str] | None = None) -> Everything:
    """`raw` as `Everything`."""
    return convert(raw, Everything, directory=Path("/nowhere"), environ=environ or {})


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"tags": [1, "x"]}, "tags[1]: expected an integer, got 'x'"),
        ({"ranks": {"ab": [1], "cd": [1, "x"]}}, "ranks.cd[1]: expected an integer, got 'x'"),
        (
            {"ranks": {"a": []}},
            "ranks: a key of this table does not fit: Expected `str` of length >= 2",
        ),
        (
            {"secrets": {"one": {"env": "ONE"}, "two": {"env": "TWO"}}},
            "secrets.two: the environment variable 'TWO' is not set; set it before starting",
        ),
        ({"inner": 5}, "inner: expected a table, got 5"),
        ({"inner": {"siez": 5}}, "inner: unknown key 'siez'; did you mean 'size'?"),
        ({"many": [{}, {"size": "x"}]}, "many[1].size: expected an integer, got 'x'"),
        ({"root": "/var"}, "root: an option can't be a Path; use a type that msgspec knows, or Secret"),
    ],
)
def test_what_does_not_fit_is_named_however_deep_it_lies(raw: dict[str, Any], message: str) -> None:
    """The dotted key leads to the value itself, also where msgspec only knows the table around it."""
    with pytest.raises(ConfigError) as caught:
        fitted(raw, {"ONE": "1"})

    assert message == str(caught.value)


def test_a_text_for_a_field_of_any_type_stays_a_text() -> None:
    """Where the options do not say what a value is, it is what was written."""
    assert "5" == fitted({"free": {"size": Text("5")}}).free["size"]


def test_a_text_is_read_inside_lists_and_tables() -> None:
    """The type of the field decides, wherever the field is."""
    everything = fitted({"many": [{"size": Text("3")}], "price": Text("1.50")})

    assert 3 == everything.many[0].size
    assert Decimal("1.50") == everything.price
