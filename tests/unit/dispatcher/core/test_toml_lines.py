"""Lines of tables and keys."""

import pytest

from stepstream_dispatcher.core.toml_lines import LineIndex, Path

TEXT = """\
top = 1

[a.b] # words
"quoted key" = 2
c.d = 3
[[a.b.list]]
x = 1
[a.b.list.sub]
deep = 1
[[ a.b.list ]]
x = 2
y = { z = 1 }
[a.b.list.sub]
deep = 2
"""


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ((), 1),
        (("top",), 1),
        (("a", "b"), 3),
        (("a", "b", "quoted key"), 4),
        (("a", "b", "c"), 5),
        (("a", "b", "c", "d"), 5),
        (("a", "b", "list", 0), 6),
        (("a", "b", "list", 0, "x"), 7),
        (("a", "b", "list", 0, "sub", "deep"), 9),
        (("a", "b", "list", 1, "x"), 11),
        (("a", "b", "list", 1, "y", "z"), 12),
        (("a", "b", "list", 1, "sub", "deep"), 14),
        (("a", "b", "list", 1, "missing"), 10),
        (("a", "b", "list", 7), 3),
        (("missing", 0, "x"), 1),
    ],
)
def test_line_of_a_path_or_of_what_contains_it(path: Path, line: int):
    assert LineIndex(TEXT).line(path) == line
