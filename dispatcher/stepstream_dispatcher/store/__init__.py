"""Where tasks are kept: the seam, Redis and SQLite."""
