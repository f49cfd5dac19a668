"""Many spectra: a run in shards that survive whatever happens, by one process or many."""
