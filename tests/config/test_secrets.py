"""Secrets are named in the configuration and never shown."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from raftcore import ConfigError
from raftcore.config import Config, Setting
from raftcore.plugins import Secret

Load = Callable[..., Config]

FROM_ENV = '[log_store.options]\nkey = { env = "STORE_KEY" }\n'
FROM_FILE = '[log_store.options]\nkey = { file = "secrets/key" }\n'
PLACE = 'say where it is: { env = "NAME" } or { file = "path" }'


def test_a_secret_comes_from_the_environment(load: Load) -> None:
    """The variable's value is there for the backend."""
    assert "s3cret" == load(FROM_ENV, environ={"STORE_KEY": "s3cret"}).log_store.options.key.reveal()


def test_a_secret_comes_from_a_file_beside_the_configuration(load: Load, tmp_path: Path) -> None:
    """The path counts from the configuration's directory, and the end of the last line is no part of it."""
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets/key").write_text("s3cret\n")

    assert "s3cret" == load(FROM_FILE).log_store.options.key.reveal()


def test_the_place_of_a_secret_can_be_overridden(load: Load) -> None:
    """The environment may say where the secret is, as a table."""
    environ = {"RAFTCORE__LOG_STORE__OPTIONS__KEY": '{ env = "OTHER_KEY" }', "OTHER_KEY": "s3cret"}

    assert "s3cret" == load(FROM_ENV, environ=environ).log_store.options.key.reveal()


def test_a_secret_is_never_printed(load: Load) -> None:
    """Neither by itself, nor in the options that hold it, nor in the settings that are shown."""
    config = load(FROM_ENV, environ={"STORE_KEY": "s3cret"})

    secret = config.log_store.options.key
    assert ("Secret('**********')", "**********", "**********") == (repr(secret), str(secret), f"{secret}")
    assert "Secret('**********')" in repr(config.log_store.options)
    assert "s3cret" not in repr(config)
    assert Setting("log_store.options.key", "**********", "node.toml") in config.settings


def test_a_variable_that_is_not_set_is_named(load: Load) -> None:
    """The message names the key of the configuration and the variable."""
    message = (
        r"^node\.toml: log_store\.options\.key: the environment variable 'STORE_KEY' is not set; "
        r"set it before starting$"
    )
    with pytest.raises(ConfigError, match=message):
        load(FROM_ENV)


def test_a_file_that_cannot_be_read_is_named(load: Load) -> None:
    """The message names the key of the configuration and the path."""
    message = (
        r"^node\.toml: log_store\.options\.key: the secret can't be read: .*No such file or directory: "
        r"'.*secrets/key'; make it a text file of this user$"
    )
    with pytest.raises(ConfigError, match=message):
        load(FROM_FILE)


@pytest.mark.parametrize("written", ['"s3cret"', "12345", '{ env = "A", file = "s3cret" }', "{ env = 5 }", "[]", "{}"])
def test_a_secret_is_not_written_down(written: str, load: Load) -> None:
    """What stands in the place of a secret is refused, and not repeated in the message."""
    with pytest.raises(ConfigError) as caught:
        load(f"[log_store.options]\nkey = {written}\n")

    assert f"node.toml: log_store.options.key: a secret is not written here; {PLACE}" == str(caught.value)


def test_a_secret_in_a_variable_of_raftcore_is_refused_too(load: Load) -> None:
    """One rule everywhere: settings are shown, secrets are not, so they come from elsewhere."""
    with pytest.raises(ConfigError) as caught:
        load(environ={"RAFTCORE__LOG_STORE__OPTIONS__KEY": "s3cret"})

    source = "environment RAFTCORE__LOG_STORE__OPTIONS__KEY"
    assert f"{source}: log_store.options.key: a secret is not written here; {PLACE}" == str(caught.value)


def test_two_secrets_are_two_objects() -> None:
    """A secret compares by identity, so that nothing is learnt by comparing."""
    assert Secret("a") != Secret("a")
