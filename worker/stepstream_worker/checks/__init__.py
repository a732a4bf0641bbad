"""What a translator's quality tool looks at, as a table of small checks."""

from collections.abc import Callable, Iterator

from stepstream_worker.checks.comparison import Comparison, compare
from stepstream_worker.checks.finding import Finding, excerpt
from stepstream_worker.checks.kept import (
    check_code,
    check_emails,
    check_placeholders,
    check_tags,
    check_urls,
)
from stepstream_worker.checks.numbers import check_numbers
from stepstream_worker.checks.structure import check_empty, check_lines, check_structure
from stepstream_worker.checks.untranslated import check_untranslated

__all__ = ["CHECKS", "Comparison", "Finding", "compare", "excerpt"]

# In the order in which a reviewer wants to read them. Each is lazy, so a caller may stop early.
CHECKS: tuple[Callable[[Comparison], Iterator[Finding]], ...] = (
    check_empty,
    check_lines,
    check_structure,
    check_numbers,
    check_urls,
    check_emails,
    check_placeholders,
    check_tags,
    check_code,
    check_untranslated,
)
