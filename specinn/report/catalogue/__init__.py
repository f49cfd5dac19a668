"""A catalogue as one page that needs no network."""
