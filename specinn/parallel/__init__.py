"""Work in threads, in processes and on clusters, and the locks of those who share a folder."""
