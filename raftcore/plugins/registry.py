"""Finding plugins, and choosing a backend by its name.

Plugins are the entry points of the group ``raftcore``. They are loaded one by one: a plugin that can't be
loaded, or whose hooks fail, is recorded with the reason and takes no other down. It becomes an error only for
who selects what it would have provided. The built-in backends are one more plugin, found by the name of its
module and asked through the same hooks.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.metadata
import inspect
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import pluggy

from raftcore.contracts import LogStore, Observer, SnapshotSink, StateMachine, Transport
from raftcore.errors import PluginError
from raftcore.plugins import hookspecs
from raftcore.plugins.backend import API, Backend, BuildContext, NoOptions
from raftcore.plugins.options import convert

if TYPE_CHECKING:
    import click
    import msgspec

Built = TypeVar("Built", covariant=True)

GROUP = "raftcore"
BUILTIN = "raftcore.backends.plugin"
"""Named, not imported: what collects plugins depends on none of them, the built-in one included."""


@dataclass(frozen=True, eq=False)
class Kind(Generic[Built]):
    """One kind of backend. `known` says which distribution provides a name that may not be installed."""

    name: str
    hook: str
    known: Mapping[str, str] = field(default_factory=dict)


LOG_STORE: Kind[LogStore] = Kind("log store", "raftcore_log_stores", {"leveldb": "raftcore-leveldb"})
STATE_MACHINE: Kind[StateMachine] = Kind("state machine", "raftcore_state_machines")
TRANSPORT: Kind[Transport] = Kind("transport", "raftcore_transports", {"redis": "raftcore-redis"})
SNAPSHOT_SINK: Kind[SnapshotSink] = Kind("snapshot sink", "raftcore_snapshot_sinks", {"s3": "raftcore-s3snapshots"})
OBSERVER: Kind[Observer] = Kind("observer", "raftcore_observers")

KINDS: tuple[Kind[object], ...] = (LOG_STORE, STATE_MACHINE, TRANSPORT, SNAPSHOT_SINK, OBSERVER)


@dataclass(frozen=True)
class Choice(Generic[Built]):
    """A backend that was found, with its options checked. Nothing is open yet."""

    kind: Kind[Built]
    backend: Backend[Any, Built]
    options: msgspec.Struct

    def build(self, context: BuildContext) -> Built:
        """Make the object, which opens nothing. Raises `PluginError` when its driver can't be imported."""
        try:
            return self.backend.build(self.options, context)
        except ImportError as error:
            raise PluginError(
                f"{self.kind.name} '{self.backend.name}' can't be built: {_reason(error)}; install what it needs"
            ) from error


@dataclass(frozen=True)
class Row:
    """A line of `raftcore plugins`. `status` is active, failed, disabled or conflict; `detail` says more."""

    name: str
    kind: str
    distribution: str
    version: str
    status: str
    detail: str


@dataclass(eq=False)
class _Plugin:
    """One entry point, and what became of it."""

    name: str
    distribution: str
    version: str
    module: object = None
    disabled: bool = False
    failure: str = ""

    @property
    def origin(self) -> str:
        return f"{self.distribution} {self.version}"

    def __str__(self) -> str:
        return f"plugin {self.name} ({self.origin})"


@dataclass(frozen=True)
class _Offer:
    """A backend and the plugin that offers it; `problem` when it can't be used."""

    backend: Backend[Any, Any]
    plugin: _Plugin
    problem: str


class Registry:
    """The plugins of this process, and the backends that they offer.

    `disable` holds names of entry points or of distributions; what it names is not even imported. `builtin` is
    the module of the built-in plugin. An installed plugin is code that runs: loading a registry imports every
    one that is not disabled.
    """

    def __init__(self, *, disable: Iterable[str] = (), builtin: str = BUILTIN) -> None:
        self._manager = pluggy.PluginManager("raftcore")
        self._manager.add_hookspecs(hookspecs)
        self._disable = tuple(disable)
        self._offers_by_kind: dict[str, list[_Offer]] = {}
        self._plugins = [self._load(EntryPoint("builtin", builtin, GROUP))]
        found = importlib.metadata.entry_points(group=GROUP)
        self._plugins += map(self._load, sorted(found, key=lambda point: (_distribution(point), point.name)))

    # -- choosing ---------------------------------------------------------------------------------------------------

    def choose(
        self,
        kind: Kind[Built],
        name: str,
        options: Mapping[str, object] | None = None,
        *,
        directory: Path | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> Choice[Built]:
        """The backend `name`, its options checked against the type that it names.

        `name` may be an import string such as ``my_package.module:NAME`` for a `Backend`, or for a state
        machine a class (or function) that takes no arguments. `directory` and `environ` are where secrets come
        from: the working directory and no variables when they are not given. Raises `PluginError` when there is
        no such backend, and `OptionError`, a `ConfigError`, when the options do not fit.
        """
        backend = self.backend(kind, name)
        checked = convert(options or {}, backend.options, directory=directory or Path(), environ=environ or {})
        return Choice(kind, backend, checked)

    def backend(self, kind: Kind[Built], name: str) -> Backend[Any, Built]:
        """The backend of this name or import string. Raises `PluginError` when it is missing or can't be used."""
        if ":" in name:
            return _imported(kind, name)
        offers = [offer for offer in self._offers(kind) if offer.backend.name == name]
        if len(offers) > 1:
            raise PluginError(_conflict(kind, offers))
        if not offers:
            raise PluginError(self._missing(kind, name))
        if offers[0].problem:
            raise PluginError(f"{kind.name} '{name}' of {offers[0].plugin} can't be used: {offers[0].problem}")
        return offers[0].backend

    def backends(self, kind: Kind[Built]) -> list[Backend[Any, Built]]:
        """The backends of a kind that can be chosen, by name: neither unusable nor claimed twice."""
        offers = self._offers(kind)
        names = [offer.backend.name for offer in offers]
        usable = [offer.backend for offer in offers if not offer.problem and names.count(offer.backend.name) == 1]
        return sorted(usable, key=lambda backend: backend.name)

    def add_commands(self, cli: click.Group) -> None:
        """Let every plugin add its commands to the command line."""
        for plugin in self._plugins:
            self._call(plugin, "raftcore_commands", cli=cli)

    def rows(self) -> list[Row]:
        """What there is, for `raftcore plugins`: one row for each backend, and for each plugin that gives none."""
        rows = [row for kind in KINDS for row in self._rows_of(kind)]
        silent = [plugin for plugin in self._plugins if plugin.failure or plugin.disabled]
        for plugin in silent:
            status, detail = ("failed", plugin.failure) if plugin.failure else ("disabled", "by plugins.disable")
            rows.append(Row(plugin.name, "", plugin.distribution, plugin.version, status, detail))
        offering = {offer.plugin for kind in KINDS for offer in self._offers(kind)}
        rows += [
            Row(plugin.name, "", plugin.distribution, plugin.version, "active", "offers no backend")
            for plugin in self._plugins
            if plugin not in offering and plugin not in silent
        ]
        named = {_canonical(name) for plugin in self._plugins for name in (plugin.name, plugin.distribution)}
        rows += [
            Row(name, "", "", "", "disabled", "by plugins.disable, but no such plugin is installed")
            for name in self._disable
            if _canonical(name) not in named
        ]
        return rows

    def _rows_of(self, kind: Kind[Any]) -> Iterator[Row]:
        offers = self._offers(kind)
        for offer in offers:
            backend, plugin = offer.backend, offer.plugin
            rivals = [other for other in offers if other.backend.name == backend.name]
            status, detail = "active", backend.summary
            if len(rivals) > 1:
                status, detail = "conflict", _conflict(kind, rivals)
            elif offer.problem:
                status, detail = "failed", offer.problem
            yield Row(backend.name, kind.name, plugin.distribution, plugin.version, status, detail)

    # -- loading ----------------------------------------------------------------------------------------------------

    def _load(self, point: EntryPoint) -> _Plugin:
        distribution = _distribution(point)
        version = point.dist.version if point.dist is not None else _installed(distribution) or "(not installed)"
        plugin = _Plugin(point.name, distribution, version)
        if not {_canonical(point.name), _canonical(distribution)}.isdisjoint(map(_canonical, self._disable)):
            plugin.disabled = True
            return plugin
        # Two distributions may give their entry points one name; pluggy would skip the second without a word.
        name = f"{distribution}:{point.name}"
        try:
            module = point.load()
            self._manager.register(module, name)
            self._refuse_unknown_hooks(module)
        except Exception as error:  # noqa: BLE001  # foreign code: whatever it raises costs this plugin and no other
            plugin.failure = f"failed to load: {_reason(error)}"
            if self._manager.has_plugin(name):
                self._manager.unregister(name=name)
            return plugin
        plugin.module = module
        return plugin

    def _refuse_unknown_hooks(self, module: object) -> None:
        """Raise `PluginError` for a hook that raftcore does not have: it would never be called, without a word."""
        try:
            self._manager.check_pending()
        except pluggy.PluginValidationError:
            hooks = sorted(name for name in vars(hookspecs) if name.startswith("raftcore_"))
            unknown = [caller.name for caller in self._manager.get_hookcallers(module) or [] if not caller.has_spec()]
            text = ", ".join(f"unknown hook '{name}'{_did_you_mean(name, hooks)}" for name in unknown)
            raise PluginError(f"{text}; the hooks are {', '.join(hooks)}") from None

    def _call(self, plugin: _Plugin, hook: str, **arguments: object) -> list[Any]:
        """Call one hook of one plugin; a failure is recorded, and the answer is then empty."""
        if plugin.module is None:
            return []
        others = [other.module for other in self._plugins if other.module is not None and other is not plugin]
        try:
            return list(self._manager.subset_hook_caller(hook, remove_plugins=others)(**arguments))
        except Exception as error:  # noqa: BLE001  # as in `_load`
            plugin.failure = f"{hook} failed: {_reason(error)}"
            return []

    def _offers(self, kind: Kind[Any]) -> list[_Offer]:
        """What all plugins offer of a kind; the hooks run when it is first asked for."""
        if kind.hook not in self._offers_by_kind:
            self._offers_by_kind[kind.hook] = [
                _Offer(backend, plugin, _problem(backend))
                for plugin in self._plugins
                for answer in self._call(plugin, kind.hook)
                for backend in self._checked(plugin, kind.hook, answer)
            ]
        return self._offers_by_kind[kind.hook]

    def _checked(self, plugin: _Plugin, hook: str, answer: object) -> list[Backend[Any, Any]]:
        if isinstance(answer, list) and all(isinstance(backend, Backend) for backend in answer):
            return answer
        plugin.failure = f"{hook} must return a list of Backend, not {answer!r}"
        return []

    # -- messages ---------------------------------------------------------------------------------------------------

    def _missing(self, kind: Kind[Any], name: str) -> str:
        available = [backend.name for backend in self.backends(kind)]
        return f"unknown backend '{name}' (available: {', '.join(available) or 'none'})" + (
            self._whereabouts(kind, name)
            or _did_you_mean(name, [*available, *kind.known])
            or "; see `raftcore plugins` for what is installed"
        )

    def _whereabouts(self, kind: Kind[Any], name: str) -> str:
        """Where a backend that is not available would come from, and why it does not; "" when nobody knows it."""
        provider = kind.known.get(name)
        for plugin in self._plugins:
            if plugin.name != name and _canonical(plugin.distribution) != provider:
                continue
            if plugin.disabled:
                return f"; {plugin} is disabled; take it out of plugins.disable"
            if plugin.failure:
                return f"; {plugin} is installed but {plugin.failure}"
        if provider is None:
            failed = [f"{plugin} {plugin.failure}" for plugin in self._plugins if plugin.failure]
            return f"; it may belong to {', or '.join(failed)}" if failed else ""
        version = _installed(provider)
        if version is None:
            return f"; it is provided by {provider}: pip install {provider}"
        return f"; {provider} {version} is installed but does not provide it: pip install --upgrade {provider}"


def _conflict(kind: Kind[Any], offers: list[_Offer]) -> str:
    origins = " and ".join(sorted(offer.plugin.origin for offer in offers))
    return (
        f"{kind.name} '{offers[0].backend.name}' is provided by both {origins}; "
        f"uninstall one, or name one in plugins.disable"
    )


def _problem(backend: Backend[Any, Any]) -> str:
    """Why a backend can't be used, or ""."""
    if backend.api != API:
        return (
            f"it is made for version {backend.api} of the contracts and this raftcore has version {API}; "
            f"upgrade {'the plugin' if backend.api < API else 'raftcore'}"
        )
    struct = getattr(backend.options, "__struct_config__", None)
    if struct is None or not struct.forbid_unknown_fields:
        return "its options must be a msgspec.Struct with forbid_unknown_fields=True"
    return ""


def _imported(kind: Kind[Built], name: str) -> Backend[Any, Built]:
    """The backend behind an import string."""
    module_name, _, attribute = name.partition(":")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        raise PluginError(
            f"can't import '{module_name}' of '{name}': {_reason(error)}; put it on the Python path"
        ) from error
    try:
        found = getattr(module, attribute)
    except AttributeError:
        raise PluginError(
            f"module '{module_name}' has no '{attribute}'{_did_you_mean(attribute, list(vars(module)))}"
        ) from None
    if isinstance(found, Backend):
        problem = _problem(found)
        if problem:
            raise PluginError(f"{kind.name} '{name}' can't be used: {problem}")
        return found
    if kind is not STATE_MACHINE:
        raise PluginError(f"'{name}' is {found!r}, not a Backend; wrap it in a raftcore.plugins.Backend")
    return _of_callable(name, found)


def _of_callable(name: str, make: Any) -> Backend[Any, Any]:
    """A backend without options around a state machine's class."""
    if not callable(make):
        raise PluginError(f"'{name}' is {make!r}, neither a class nor a Backend; name the state machine's class")
    try:
        inspect.signature(make).bind()
    except (TypeError, ValueError) as error:
        raise PluginError(
            f"'{name}' can't be made without arguments ({error}); wrap it in a raftcore.plugins.Backend"
        ) from None
    return Backend(name, NoOptions, lambda options, context: make(), "named by an import string")


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, PluginError) else f"{type(error).__name__}: {error}"


def _did_you_mean(name: str, names: list[str]) -> str:
    close = difflib.get_close_matches(name, names, n=1)
    return f"; did you mean '{close[0]}'?" if close else ""


def _canonical(name: str) -> str:
    """A distribution's name as package indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _distribution(point: EntryPoint) -> str:
    return point.dist.name if point.dist is not None else "raftcore"


def _installed(distribution: str) -> str | None:
    """The version of a distribution, or None when it is not installed."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None
