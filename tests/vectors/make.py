"""Write the golden vectors anew: python -m tests.vectors.make"""

from __future__ import annotations

import json

from tests.vectors import answers, ledger, overlay

if __name__ == "__main__":
    for topic in (ledger, overlay, answers):
        topic.PATH.write_text(json.dumps(topic.vectors(), indent=1, sort_keys=True) + "\n")
        print(f"wrote {topic.PATH}")
