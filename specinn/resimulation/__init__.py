"""The spectra that a posterior implies, beside those that were observed.

A :class:`~specinn.resimulation.simulator.Simulator` makes them, star by star;
:class:`~specinn.resimulation.result.Resimulation` holds one star, and :mod:`specinn.resimulation.figures`
draws it. The lines that are shown are those of :mod:`specinn.lines`:

>>> from specinn.lines import lines_near, read_lines
>>> [line.name for line in lines_near(6707.8, read_lines())]
['Li I 6707.81']
"""
