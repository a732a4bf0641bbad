"""The shipped translation worker."""
