"""Plugins: the hooks, the interfaces of what they offer, the loading, and the template of a new one.

A plugin offers records (:mod:`specinn.plugins.hookspecs`) of objects that keep an interface
(:mod:`specinn.plugins.interfaces`); :class:`Plugins` loads them, one at a time, so that a broken one costs
nothing else.

>>> from specinn.plugins import Plugins
>>> plugins = Plugins()
>>> "uves" in [offer.record.name for offer in plugins.offers("instrument")]
True
>>> reader = plugins.load("reader", "4most")()  # the object that its factory makes
>>> plugins.record("instrument", "uvs")
Traceback (most recent call last):
    ...
specinn.errors.PluginError: no instrument is called 'uvs'...uves...
"""

from __future__ import annotations

from specinn.plugins.manager import Plugins, load_factory

__all__ = ["Plugins", "load_factory"]
