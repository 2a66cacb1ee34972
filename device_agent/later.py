"""Modules that libraries import and a device does not use: they are loaded when something in them is asked for."""

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from types import ModuleType

UNUSED: Mapping[str, tuple[str, ...]] = {
    "importlib.metadata": ("entry_points",),  # Pydantic looks for plug-ins, unless told not to
    "urllib.request": (),  # paho looks for proxies, if PySocks is there; brings HTTP and mail headers
    "html": (),  # Scapy's theme for web pages
    "shutil": (),  # Scapy's prompt; brings the formats of archives
    "tempfile": (),  # files for Scapy's viewers
    "difflib": (),  # Scapy's comparison of packets, the agent's advice on misspelt settings
}
"""Module to functions that are imported out of it by name; who imports it for what."""


class _Later(ModuleType):
    """Stands for a module until something in it is wanted; its functions, until they are called."""

    def __init__(self, name: str, functions: tuple[str, ...]) -> None:
        super().__init__(name)
        for function in functions:
            setattr(self, function, self._caller(function))

    def __getattr__(self, attribute: str) -> object:
        # Importers look for names of their own here; they are answered as by a module without them.
        if attribute.startswith("__"):
            raise AttributeError(attribute)
        return getattr(self._load(), attribute)

    def _load(self) -> ModuleType:
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        return import_module(self.__name__)

    def _caller(self, function: str) -> Callable[..., object]:
        def call(*arguments: object, **named: object) -> object:
            result: object = getattr(self._load(), function)(*arguments, **named)
            return result

        return call


def put_off(modules: Mapping[str, tuple[str, ...]] = UNUSED) -> None:
    """Load these modules when they are used, not when they are imported; no effect on those that are loaded.

    Parameters
    ----------
    modules
        Names of modules, with the functions that are imported out of them by name. Anything else that is imported by
        name loads the module at once.
    """
    for name, functions in modules.items():
        package, _, attribute = name.rpartition(".")
        if name not in sys.modules:
            module = sys.modules[name] = _Later(name, functions)
            if package:
                setattr(import_module(package), attribute, module)
