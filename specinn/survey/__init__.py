"""Many spectra: a run in shards that survive whatever happens, by one process or many.

:func:`specinn.survey.survey.survey` is the run of the command line. A manifest
(:mod:`specinn.survey.manifest`) says what is to be done and is kept in a folder beside the output; each
shard (:mod:`specinn.survey.shards`) is one file there, so that a run that was killed resumes where it
stopped, and any number of workers share it.

>>> from pathlib import Path
>>> from specinn.parallel.workdir import folder_of
>>> folder_of(Path("stars.fits")).name  # where the shards of this catalogue wait
'stars.fits...'
"""
