"""Discovery of plugins, and the choice of a backend by its name."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from raftcore import ConfigError, PluginError
from raftcore.plugins import (
    KINDS,
    LOG_STORE,
    OBSERVER,
    SNAPSHOT_SINK,
    STATE_MACHINE,
    TRANSPORT,
    BuildContext,
    Kind,
    NoOptions,
    Registry,
    Row,
)

Install = Callable[..., None]
Script = Callable[[str, str], None]

CONTEXT = BuildContext(node="n1", cluster="orders", address="127.0.0.1:7101", data_dir=Path("data"))


@pytest.fixture
def bare(script: Script) -> Callable[..., Registry]:
    """A registry whose built-in plugin offers the log stores `memory` and `sqlite`, and nothing else."""
    script(
        "bare_builtin",
        """
        from raftcore.plugins import Backend, NoOptions, hookimpl

        @hookimpl
        def raftcore_log_stores():
            return [Backend(name, NoOptions, lambda options, context: None, name) for name in ("sqlite", "memory")]
        """,
    )

    def registry(**arguments: object) -> Registry:
        return Registry(builtin="bare_builtin", **arguments)  # type: ignore[arg-type]  # passed on as it comes

    return registry


def refusal(registry: Registry, name: str, kind: object = LOG_STORE) -> str:
    """What the registry says to a name that it refuses."""
    with pytest.raises(PluginError) as caught:
        registry.backend(kind, name)  # type: ignore[arg-type]  # any kind
    return str(caught.value)


# -- discovery ------------------------------------------------------------------------------------------------------


def test_an_installed_backend_is_chosen_by_its_name_and_built(install: Install, bare: Callable[..., Registry]) -> None:
    """A plugin needs an entry point and a hook, and its backend is there by name, with its options."""
    install("acme-store")

    options, context = bare().choose(LOG_STORE, "things", {"path": "elsewhere"}).build(CONTEXT)

    assert "elsewhere" == options.path
    assert CONTEXT == context


def test_the_built_in_plugin_is_asked_like_any_other() -> None:
    """The backends that come with raftcore are found through the same hooks."""
    registry = Registry()

    assert {"memory", "sqlite"} <= {backend.name for backend in registry.backends(LOG_STORE)}
    assert {"memory", "tcp"} <= {backend.name for backend in registry.backends(TRANSPORT)}
    assert {"memory", "directory"} <= {backend.name for backend in registry.backends(SNAPSHOT_SINK)}
    assert {"kv"} <= {backend.name for backend in registry.backends(STATE_MACHINE)}
    assert {"log"} <= {backend.name for backend in registry.backends(OBSERVER)}


def test_a_plugin_that_cannot_be_imported_takes_no_other_down(install: Install, bare: Callable[..., Registry]) -> None:
    """A broken plugin is recorded with the reason; the others work."""
    install("acme-store")
    install("broken", version="0.3", code="import not_a_module")

    registry = bare()

    assert "things" == registry.backend(LOG_STORE, "things").name
    reason = "failed to load: ModuleNotFoundError: No module named 'not_a_module'"
    assert Row("broken", "", "broken", "0.3", "failed", reason) in registry.rows()


def test_a_plugin_whose_hook_raises_takes_no_other_down(install: Install, bare: Callable[..., Registry]) -> None:
    """A hook that fails costs its own plugin's backends and nobody else's."""
    install("acme-store")
    install(
        "broken",
        code="""
        from raftcore.plugins import hookimpl

        @hookimpl
        def raftcore_log_stores():
            raise RuntimeError("no licence")
        """,
    )

    registry = bare()

    assert ["memory", "sqlite", "things"] == [backend.name for backend in registry.backends(LOG_STORE)]
    reason = "raftcore_log_stores failed: RuntimeError: no licence"
    assert Row("broken", "", "broken", "1.0", "failed", reason) in registry.rows()


def test_a_misspelt_hook_is_an_error_of_its_plugin(install: Install, bare: Callable[..., Registry]) -> None:
    """A hook that raftcore does not have would never be called; the right name is offered."""
    install(
        "a-misspelt",
        code="""
        from raftcore.plugins import hookimpl

        @hookimpl
        def raftcore_log_store():
            return []
        """,
    )
    install("b-store")

    registry = bare()

    (row,) = [row for row in registry.rows() if row.status == "failed"]
    assert "a-misspelt" == row.distribution
    assert re.search(
        r"failed to load: unknown hook 'raftcore_log_store'; did you mean 'raftcore_log_stores'\?; the hooks are .*"
        r"raftcore_commands, raftcore_log_stores",
        row.detail,
    )
    assert "things" == registry.backend(LOG_STORE, "things").name


def test_a_hook_with_a_wrong_argument_is_an_error_of_its_plugin(
    install: Install, bare: Callable[..., Registry]
) -> None:
    """None of the hooks of a plugin is called when one of them asks for what raftcore does not give."""
    install(
        "greedy",
        code="""
        from raftcore.plugins import Backend, NoOptions, hookimpl

        @hookimpl
        def raftcore_log_stores():
            return [Backend("greedy", NoOptions, lambda options, context: None, "greedy")]

        @hookimpl
        def raftcore_transports(node):
            return []
        """,
    )

    registry = bare()

    assert ["memory", "sqlite"] == [backend.name for backend in registry.backends(LOG_STORE)]
    (row,) = [row for row in registry.rows() if row.distribution == "greedy"]
    assert "failed" == row.status
    assert re.search(r"failed to load: PluginValidationError: (?s:.*)hook 'raftcore_transports'", row.detail)


def test_a_hook_must_return_a_list_of_backends(install: Install, bare: Callable[..., Registry]) -> None:
    """Anything else is refused, and shown."""
    install(
        "sloppy",
        code="""
        from raftcore.plugins import hookimpl

        @hookimpl
        def raftcore_log_stores():
            return ["a name"]
        """,
    )

    rows = bare().rows()

    reason = "raftcore_log_stores must return a list of Backend, not ['a name']"
    assert Row("sloppy", "", "sloppy", "1.0", "failed", reason) in rows


def test_two_distributions_may_give_their_entry_points_one_name(
    install: Install, bare: Callable[..., Registry]
) -> None:
    """The name of an entry point need not be unique; both plugins are loaded."""
    install("acme-store", point="store", store="things")
    install("bolt-store", point="store", store="bolts")

    registry = bare()

    assert ["bolts", "memory", "sqlite", "things"] == [backend.name for backend in registry.backends(LOG_STORE)]


def test_a_registry_is_an_instance(install: Install, bare: Callable[..., Registry]) -> None:
    """What is installed after a registry was made is seen by the next one, and only by that."""
    first = bare()
    install("acme-store")
    second = bare()

    assert ["memory", "sqlite"] == [backend.name for backend in first.backends(LOG_STORE)]
    assert ["memory", "sqlite", "things"] == [backend.name for backend in second.backends(LOG_STORE)]


def test_rows_name_every_backend_and_every_silent_plugin(install: Install, bare: Callable[..., Registry]) -> None:
    """One row for each backend, with its distribution; one for a plugin that offers none."""
    install("acme-store", version="2.1")
    install("mute", code="")

    rows = [row for row in bare().rows() if row.distribution != "raftcore"]

    assert [
        Row("things", "log store", "acme-store", "2.1", "active", "keeps a log"),
        Row("mute", "", "mute", "1.0", "active", "offers no backend"),
    ] == rows


def test_plugins_add_commands_and_a_failing_one_takes_no_other_down(
    install: Install, bare: Callable[..., Registry]
) -> None:
    """Every plugin gets the command line's group; one that fails is recorded."""
    install(
        "a-broken",
        code="""
        from raftcore.plugins import hookimpl

        @hookimpl
        def raftcore_commands(cli):
            raise RuntimeError("no terminal")
        """,
    )
    install(
        "b-commands",
        code="""
        from raftcore.plugins import hookimpl

        @hookimpl
        def raftcore_commands(cli):
            cli.append("b")
        """,
    )
    registry, group = bare(), []

    registry.add_commands(group)  # type: ignore[arg-type]  # the registry only hands it on

    assert ["b"] == group
    reason = "raftcore_commands failed: RuntimeError: no terminal"
    assert Row("a_broken", "", "a-broken", "1.0", "failed", reason) in registry.rows()


# -- disabling --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["acme", "acme-store", "Acme_Store"])
def test_a_disabled_plugin_is_not_imported(name: str, install: Install, bare: Callable[..., Registry]) -> None:
    """`disable` takes the name of the entry point or of the distribution, in any spelling of it."""
    install("acme-store", point="acme")

    registry = bare(disable=[name])

    assert "acme_store" not in sys.modules
    assert Row("acme", "", "acme-store", "1.0", "disabled", "by plugins.disable") in registry.rows()


def test_selecting_what_a_disabled_plugin_provides_says_so(install: Install, bare: Callable[..., Registry]) -> None:
    """The message does not send the user to install what is there."""
    install("acme-store", point="things")

    assert (
        "unknown backend 'things' (available: memory, sqlite); plugin things (acme-store 1.0) is disabled; "
        "take it out of plugins.disable"
    ) == refusal(bare(disable=["things"]), "things")


def test_disabling_what_is_not_installed_is_shown(bare: Callable[..., Registry]) -> None:
    """A misspelt name in `disable` does not stay unseen."""
    rows = bare(disable=["acme-stroe"]).rows()

    assert Row("acme-stroe", "", "", "", "disabled", "by plugins.disable, but no such plugin is installed") in rows


# -- refusals ---------------------------------------------------------------------------------------------------------


def test_two_distributions_with_one_name_are_refused(install: Install, bare: Callable[..., Registry]) -> None:
    """Neither wins; the message names both and the two ways out."""
    install("acme-store")
    install("evil-fork", version="6.6")

    registry = bare()

    message = (
        "log store 'things' is provided by both acme-store 1.0 and evil-fork 6.6; "
        "uninstall one, or name one in plugins.disable"
    )
    assert message == refusal(registry, "things")
    assert {("things", "conflict", message)} == {
        (row.name, row.status, row.detail) for row in registry.rows() if row.distribution != "raftcore"
    }
    assert ["memory", "sqlite"] == [backend.name for backend in registry.backends(LOG_STORE)]


def test_disabling_one_of_two_rivals_resolves_the_conflict(install: Install, bare: Callable[..., Registry]) -> None:
    """The advice of the message works."""
    install("acme-store")
    install("evil-fork")

    registry = bare(disable=["evil-fork"])

    assert "acme_store" == registry.backend(LOG_STORE, "things").build.__module__


@pytest.mark.parametrize(("api", "remedy"), [(0, "upgrade the plugin"), (2, "upgrade raftcore")])
def test_a_backend_for_another_version_of_the_contracts_is_refused(
    api: int, remedy: str, install: Install, bare: Callable[..., Registry]
) -> None:
    """The message names both versions and who must move."""
    install("acme-store", point="acme", api=api)

    registry = bare()

    problem = f"it is made for version {api} of the contracts and this raftcore has version 1; {remedy}"
    expected = f"log store 'things' of plugin acme (acme-store 1.0) can't be used: {problem}"
    assert expected == refusal(registry, "things")
    assert Row("things", "log store", "acme-store", "1.0", "failed", problem) in registry.rows()


def test_a_backend_with_lax_options_is_refused(install: Install, bare: Callable[..., Registry]) -> None:
    """Options that would swallow an unknown key are no options."""
    install(
        "lax",
        code="""
        import msgspec
        from raftcore.plugins import Backend, hookimpl

        class Options(msgspec.Struct):
            path: str = "log"

        @hookimpl
        def raftcore_log_stores():
            return [Backend("lax", Options, lambda options, context: None, "lax")]
        """,
    )

    assert re.search(
        r"can't be used: its options must be a msgspec.Struct with forbid_unknown_fields=True", refusal(bare(), "lax")
    )


def test_a_near_miss_gets_a_suggestion(bare: Callable[..., Registry]) -> None:
    """A slip of the finger is recognised."""
    assert "unknown backend 'sqlit' (available: memory, sqlite); did you mean 'sqlite'?" == refusal(bare(), "sqlit")


def test_an_unknown_name_points_to_the_list(bare: Callable[..., Registry]) -> None:
    """When nothing is near, the message says where to look."""
    assert ("unknown backend 'x' (available: memory, sqlite); see `raftcore plugins` for what is installed") == refusal(
        bare(), "x"
    )


def test_a_well_known_name_says_what_to_install(bare: Callable[..., Registry]) -> None:
    """Where a backend is known and its distribution is not there, the message holds the command."""
    kind = Kind("log store", "raftcore_log_stores", {"rocks": "raftcore-rocks"})

    assert (
        "unknown backend 'rocks' (available: memory, sqlite); it is provided by raftcore-rocks: "
        "pip install raftcore-rocks"
    ) == refusal(bare(), "rocks", kind)
    assert "did you mean 'rocks'?" in refusal(bare(), "rokcs", kind)


def test_the_well_known_names_are_those_of_this_repository() -> None:
    """Every distribution in `plugins/` is known by what it provides."""
    folders = (Path(__file__).parents[2] / "plugins").glob("*/pyproject.toml")

    assert {"leveldb": "raftcore-leveldb"} == LOG_STORE.known
    assert {"redis": "raftcore-redis"} == TRANSPORT.known
    assert {"s3": "raftcore-s3snapshots"} == SNAPSHOT_SINK.known
    assert {f"raftcore-{path.parent.name}" for path in folders} == {
        distribution for kind in KINDS for distribution in kind.known.values()
    }


def test_a_known_plugin_that_failed_says_why(install: Install, bare: Callable[..., Registry]) -> None:
    """The message of a selected plugin that is broken holds its error."""
    install("acme-redis", point="redis", code="import not_a_module")

    assert (
        "unknown backend 'redis' (available: none); plugin redis (acme-redis 1.0) is installed but failed to load: "
        "ModuleNotFoundError: No module named 'not_a_module'"
    ) == refusal(bare(), "redis", TRANSPORT)


def test_an_unknown_name_may_belong_to_a_plugin_that_failed(install: Install, bare: Callable[..., Registry]) -> None:
    """A failed plugin may have provided anything, so it is named."""
    install("acme-store", point="acme", code="1 / 0")

    assert (
        "unknown backend 'things' (available: memory, sqlite); it may belong to plugin acme (acme-store 1.0) "
        "failed to load: ZeroDivisionError: division by zero"
    ) == refusal(bare(), "things")


def test_a_known_plugin_that_is_too_old_says_to_upgrade(install: Install, bare: Callable[..., Registry]) -> None:
    """Where the distribution is installed and lacks the backend, installing it again is no advice."""
    install("raftcore-leveldb", version="0.0.1", module="old_leveldb", code="")

    assert (
        "unknown backend 'leveldb' (available: memory, sqlite); raftcore-leveldb 0.0.1 is installed but does not "
        "provide it: pip install --upgrade raftcore-leveldb"
    ) == refusal(bare(), "leveldb")


# -- options and building ---------------------------------------------------------------------------------------------


def test_unknown_options_are_refused_before_anything_is_built(install: Install, bare: Callable[..., Registry]) -> None:
    """Options are checked against the type that the backend names."""
    install("acme-store")

    with pytest.raises(ConfigError, match=r"^unknown key 'pth'; did you mean 'path'\?$"):
        bare().choose(LOG_STORE, "things", {"pth": "x"})


def test_a_driver_that_is_missing_is_a_plugin_error(install: Install, bare: Callable[..., Registry]) -> None:
    """A plugin imports its driver when it builds; when that is missing, the message names the backend."""
    install(
        "acme-store",
        code="""
        from raftcore.plugins import Backend, NoOptions, hookimpl

        def build(options, context):
            import not_a_driver

        @hookimpl
        def raftcore_log_stores():
            return [Backend("things", NoOptions, build, "things")]
        """,
    )
    choice = bare().choose(LOG_STORE, "things")

    with pytest.raises(
        PluginError,
        match=r"^log store 'things' can't be built: ModuleNotFoundError: No module named 'not_a_driver'; "
        r"install what it needs$",
    ):
        choice.build(CONTEXT)


# -- import strings ---------------------------------------------------------------------------------------------------


@pytest.fixture
def mine(script: Script) -> None:
    """A user's own module, in no distribution."""
    script(
        "my_app",
        """
        from raftcore.plugins import Backend, NoOptions

        class Counter:
            pass

        class Sized:
            def __init__(self, size):
                pass

        NUMBER = 5
        STORE = Backend("mine", NoOptions, lambda options, context: "a store", "mine")
        OLD = Backend("old", NoOptions, lambda options, context: "a store", "old", api=0)
        """,
    )


def test_an_import_string_names_a_backend(mine: None, bare: Callable[..., Registry]) -> None:
    """A backend of one's own needs no distribution."""
    assert "a store" == bare().choose(LOG_STORE, "my_app:STORE").build(CONTEXT)


def test_an_import_string_names_the_class_of_a_state_machine(mine: None, bare: Callable[..., Registry]) -> None:
    """The commonest case, a state machine of one's own, needs no Backend around it."""
    choice = bare().choose(STATE_MACHINE, "my_app:Counter")

    assert NoOptions() == choice.options
    assert "Counter" == type(choice.build(CONTEXT)).__name__


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "my_ap:Counter",
            (
                "can't import 'my_ap' of 'my_ap:Counter': ModuleNotFoundError: No module named 'my_ap'; "
                "put it on the Python path"
            ),
        ),
        ("my_app:Conter", "module 'my_app' has no 'Conter'; did you mean 'Counter'?"),
        ("my_app:NUMBER", "'my_app:NUMBER' is 5, neither a class nor a Backend; name the state machine's class"),
        (
            "my_app:Sized",
            (
                "'my_app:Sized' can't be made without arguments (missing a required argument: 'size'); "
                "wrap it in a raftcore.plugins.Backend"
            ),
        ),
        (
            "my_app:OLD",
            (
                "state machine 'my_app:OLD' can't be used: it is made for version 0 of the contracts and this raftcore "
                "has version 1; upgrade the plugin"
            ),
        ),
    ],
)
def test_an_import_string_that_leads_nowhere_says_why(
    name: str, message: str, mine: None, bare: Callable[..., Registry]
) -> None:
    """Each way to get an import string wrong has its message."""
    assert message == refusal(bare(), name, STATE_MACHINE)


def test_only_a_state_machine_may_be_a_bare_class(mine: None, bare: Callable[..., Registry]) -> None:
    """A store needs options and a place to be, so it needs a Backend."""
    assert re.fullmatch(
        r"'my_app:Counter' is <class 'my_app.Counter'>, not a Backend; wrap it in a raftcore.plugins.Backend",
        refusal(bare(), "my_app:Counter"),
    )


# -- the context ------------------------------------------------------------------------------------------------------


def test_paths_in_options_lie_in_the_data_directory() -> None:
    """A relative path counts from the data directory; an absolute one stays."""
    assert Path("data/log") == CONTEXT.path("log")
    assert Path("/var/log") == CONTEXT.path("/var/log")
