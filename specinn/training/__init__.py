"""Training of models: recipes, checkpoints, and the search for the best settings.

A recipe is a TOML file (:mod:`specinn.training.recipe`) that names what is trained; estimators train
themselves and keep checkpoints (:mod:`specinn.training.checkpoint`). :mod:`specinn.training.tuning` tries
many recipes in the ranges of a search (:mod:`specinn.training.search`).

>>> from specinn.training.recipe import parts, to_toml, with_values
>>> recipe = {"estimator": {"kind": "cinn", "schedule": {"steps": 1000}}}
>>> what, kind, table = parts(recipe, "recipe.toml")
>>> what, kind
('estimator', 'cinn')
>>> print(to_toml(with_values(table, {"schedule.steps": 2000})))
[schedule]
steps = 2000
<BLANKLINE>
"""
