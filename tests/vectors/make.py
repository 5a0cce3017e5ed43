"""Write the golden vectors anew: python -m tests.vectors.make"""

from __future__ import annotations

import json

from tests.vectors.ledger import PATH, vectors

if __name__ == "__main__":
    PATH.write_text(json.dumps(vectors(), indent=1, sort_keys=True) + "\n")
    print(f"wrote {PATH}")
