"""The error tree is the one that its module draws."""

from __future__ import annotations

import re

from planetserve import errors
from planetserve.errors import PlanetServeError


def drawn() -> dict[str, tuple[str, int | None]]:
    """Each class of the drawing with its parent and the exit code that stands beside it."""
    tree: dict[str, tuple[str, int | None]] = {}
    parents: dict[int, str] = {}
    for line in (errors.__doc__ or "").splitlines():
        match = re.match(r"^(    [│├└─ ]*)([A-Z]\w+)(?:.*exit (\d))?", line)
        if match is None:
            continue
        depth = len(match[1])
        above = [level for level in parents if level < depth]
        parent = parents[max(above)] if above else "Exception"
        parents = {level: name for level, name in parents.items() if level < depth}
        parents[depth] = match[2]
        tree[match[2]] = (parent, int(match[3]) if match[3] else None)
    return tree


def test_the_drawing_matches_the_classes() -> None:
    tree = drawn()
    classes = {
        name: value
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, PlanetServeError)
    }
    assert set(tree) == set(classes)
    for name, (parent, exit_code) in tree.items():
        assert classes[name].__mro__[1].__name__ == parent
        if exit_code is not None:
            assert classes[name].exit_code == exit_code
