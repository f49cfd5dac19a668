"""Work in threads, in processes and on clusters, and the locks of those who share a folder.

Files are read while the network computes (:mod:`specinn.parallel.threads`); what takes longer is spread over
processes (:mod:`specinn.parallel.processes`) and clusters (:mod:`specinn.parallel.cluster`) that coordinate
through files in a folder (:mod:`specinn.parallel.locks`, :mod:`specinn.parallel.workdir`).

>>> from specinn.parallel.threads import ahead
>>> list(ahead((n * n for n in range(4)), depth=2))  # computed in a thread, two in advance
[0, 1, 4, 9]
"""
