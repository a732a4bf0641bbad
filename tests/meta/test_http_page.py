"""docs/http.md has every route of the task API and no other."""

import re

from stepstream_dispatcher.edge.routes import OPERATIONS
from tests.support.tree import ROOT

ROW = re.compile(r"^\| `(\w+) (/api/\S+)` \| \S.* \|", re.MULTILINE)
# Beside the task API.
OTHERS = {("GET", "/api/openapi.json"), ("GET", "/api/stats")}


def test_page_has_a_row_for_each_route_and_no_other():
    page = (ROOT / "docs/http.md").read_text(encoding="utf-8")

    listed = {(method, path.replace("TASK_ID", "{task_id}")) for method, path in ROW.findall(page)}

    assert listed - OTHERS == {(one.method, one.path) for one in OPERATIONS}
