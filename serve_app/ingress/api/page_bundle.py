"""Bundle of the page's modules in one script.

The page is written as plain ES modules. Over a slow connection, each level of their imports costs
a round trip, and a browser opens six connections at most. One script needs one round trip. The
modules are also served one by one.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator, Mapping

_IMPORT = re.compile(
    r'^import\s+(?:\{(?P<names>[^}]*)\}|\*\s+as\s+(?P<all>\w+))\s+from\s+"(?P<path>\.[^"]*)";$',
    re.MULTILINE,
)
_EXPORT = re.compile(
    r"^export\s+(?P<kept>(?:async\s+)?(?:function\*?|class|const)\s+(?P<name>\w+))", re.MULTILINE
)
_LEFT = re.compile(r'^(?:import\b.*["\']\.|export\b).*$', re.MULTILINE)


def script_of(files: Mapping[str, str], main: str) -> str:
    """One module with ``main`` and all that it imports. ``files``: path → source.

    Each module becomes a function that returns its exports, so that names do not meet. Raises
    ``ValueError`` for a cycle, and for a form of import or export that the page does not use.
    """
    parts: list[str] = []
    numbers: dict[str, int] = {}
    for path in _in_order(files, main, ()):
        if path not in numbers:
            numbers[path] = len(numbers)
            parts.append(_function(path, files[path], numbers))
    return "\n".join(parts)


def _in_order(files: Mapping[str, str], path: str, above: tuple[str, ...]) -> Iterator[str]:
    """Modules that ``path`` imports, each after those that it imports itself, and then ``path``."""
    if path in above:
        raise ValueError(f"{path} imports itself by way of {above[-1]}")
    for found in _IMPORT.finditer(files[path]):
        yield from _in_order(files, _target(path, found["path"]), (*above, path))
    yield path


def _function(path: str, source: str, numbers: Mapping[str, int]) -> str:
    exports = [found["name"] for found in _EXPORT.finditer(source)]

    def bound(found: re.Match[str]) -> str:
        names = found["all"] or f"{{{(found['names'] or '').replace(' as ', ': ')}}}"
        return f"const {names} = module{numbers[_target(path, found['path'])]};"

    body = _EXPORT.sub(lambda found: found["kept"], _IMPORT.sub(bound, source))
    if left := _LEFT.search(body):
        raise ValueError(f"{path}: this form is not bundled: {left[0]}")
    returned = f"return {{ {', '.join(exports)} }};"
    return f"// {path}\nconst module{numbers[path]} = (() => {{\n{body}\n{returned}\n}})();\n"


def _target(path: str, relative: str) -> str:
    return posixpath.normpath(posixpath.join(posixpath.dirname(path), relative))
