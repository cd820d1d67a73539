"""Find backbones in bundled files, the user's plugin folders and the entry-point group `musictagger.backbones`.

All three are registered in the same way. A plugin that fails to import is listed with the reason and does not affect
the others.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import inspect
import logging
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import TypeGuard

from musictagger.errors import ModelError
from musictagger.models.backbone import Backbone
from musictagger.paths import bundled_folder

ENTRY_POINT_GROUP = "musictagger.backbones"

SLOW_IMPORT_S = 5.0
"""Time after which the plugin being imported is named: one that never ends would look as if this program hung."""


@dataclass(frozen=True)
class Plugin:
    """A backbone, or a plugin that cannot be used (`backbone` is None, `error` is the reason)."""

    name: str
    origin: str
    """A file path or an entry point."""
    backbone: type[Backbone] | None = None
    error: str = ""

    @property
    def summary(self) -> str:
        """The first line of the backbone's docstring, or the error of the plugin."""
        if self.backbone is None:
            return self.error
        return (inspect.getdoc(self.backbone) or "").partition("\n")[0]


def find_plugins(folders: Sequence[Path] = ()) -> list[Plugin]:
    """All plugins, sorted by name: bundled, in `folders`, and installed ones.

    If several plugins have one name, all except the first found are listed as broken.
    """
    found: dict[str, Plugin] = {}
    broken: list[Plugin] = []
    for plugin in _all_plugins(folders):
        if plugin.backbone is None:
            broken.append(plugin)
        elif plugin.name in found:
            taken = f"the name {plugin.name!r} is taken by {found[plugin.name].origin}"
            broken.append(Plugin(plugin.name, plugin.origin, error=taken))
        else:
            found[plugin.name] = plugin
    return sorted([*found.values(), *broken], key=lambda plugin: (plugin.name, plugin.origin))


def find_backbones(folders: Sequence[Path] = ()) -> dict[str, type[Backbone]]:
    """The usable backbones by name."""
    return {plugin.name: plugin.backbone for plugin in find_plugins(folders) if plugin.backbone is not None}


def build(name: str, n_tags: int, config: Mapping[str, object], folders: Sequence[Path] = ()) -> Backbone:
    """A backbone with fresh weights. Raises ModelError when it is unknown, rejects its configuration or fails."""
    backbones = find_backbones(folders)
    if name not in backbones:
        known = ", ".join(backbones)
        raise ModelError(f"there is no backbone {name!r} (found: {known}); `musictagger plugins` lists all")
    try:
        with quiet_output():
            return backbones[name](n_tags, **config)
    except TypeError as error:
        takes = [each for each in inspect.signature(backbones[name]).parameters if each != "n_tags"]
        strange = ", ".join(sorted(set(config) - set(takes)))
        reason = f"{strange} is not among {', '.join(takes)}" if strange else str(error)
        raise ModelError(f"backbone {name} does not take this configuration: {reason}") from error
    except ModelError:
        raise
    except (Exception, SystemExit) as error:
        origin = origin_of(backbones[name])
        raise ModelError(f"backbone {name} ({origin}) failed to be built: {failure(error)}") from error


def failure(error: BaseException) -> str:
    """Type and message of an error in a plugin's code."""
    return f"{type(error).__name__}: {error}"


def origin_of(backbone: type) -> str:
    """The file that defines a backbone, or its module."""
    module = sys.modules.get(backbone.__module__)
    return str(getattr(module, "__file__", None) or backbone.__module__)


def quiet_output() -> contextlib.AbstractContextManager[object]:
    """Redirect a plugin's prints to standard error: standard output may be a document for another program."""
    return contextlib.redirect_stdout(sys.stderr)


@contextlib.contextmanager
def _importing(origin: str) -> Iterator[None]:
    """Surround the import of a plugin, whose output is redirected, and which is named if the import is slow."""
    warn = logging.getLogger("musictagger").warning
    timer = threading.Timer(SLOW_IMPORT_S, warn, ("still importing plugin %s; move it away if it never ends", origin))
    timer.daemon = True
    timer.start()
    try:
        with quiet_output():
            yield
    finally:
        timer.cancel()


def _all_plugins(folders: Sequence[Path]) -> Iterator[Plugin]:
    seen: set[Path] = set()
    for folder in (bundled_folder("plugins"), *folders):
        for path in sorted(folder.glob("*.py")):
            # The settings and the command line may name the same folder.
            if not path.name.startswith(("_", ".")) and path.resolve() not in seen:
                seen.add(path.resolve())
                yield from _load(path.stem, str(path), partial(_import_file, path))
    for entry in sorted(entry_points(group=ENTRY_POINT_GROUP), key=lambda entry: entry.name):
        yield from _load(entry.name, f"entry point {entry.value}", entry.load)


def _load(fallback_name: str, origin: str, load: Callable[[], object]) -> list[Plugin]:
    """The backbone, or those that a module defines itself, without those that it imports."""
    try:
        with _importing(origin):
            target = load()
    except (Exception, SystemExit) as error:
        return [Plugin(fallback_name, origin, error=failure(error))]
    if not isinstance(target, ModuleType):
        return [_checked(target, fallback_name, origin)]
    own = [value for value in vars(target).values() if _is_backbone(value) and value.__module__ == target.__name__]
    if not own:
        return [Plugin(fallback_name, origin, error="defines no subclass of musictagger.models.backbone.Backbone")]
    return [_checked(backbone, fallback_name, origin) for backbone in own]


def _import_file(path: Path) -> ModuleType:
    # Files in two folders may have the same name; the digest distinguishes their modules.
    module_name = f"musictagger_plugin_{path.stem}_{hashlib.sha1(str(path).encode(errors='replace')).hexdigest()[:8]}"
    if module_name in sys.modules:
        return sys.modules[module_name]
    spec = importlib.util.spec_from_file_location(module_name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[module_name]
        raise
    return module


def _is_backbone(value: object) -> TypeGuard[type[Backbone]]:
    return inspect.isclass(value) and issubclass(value, Backbone)


def _checked(target: object, fallback_name: str, origin: str) -> Plugin:
    if not _is_backbone(target):
        return Plugin(fallback_name, origin, error="is not a subclass of musictagger.models.backbone.Backbone")
    name = getattr(target, "name", None)
    if not isinstance(name, str) or not name:
        return Plugin(fallback_name, origin, error=f"class {target.__name__} has no `name`")
    return Plugin(name, origin, target)
