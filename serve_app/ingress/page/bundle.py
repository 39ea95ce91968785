"""Bundles of the page's modules, and pages with their styles and first scripts inside.

The page is written as plain ES modules. Over a slow connection, each level of their imports costs
a round trip, and a browser opens six connections at most. One script needs one round trip. What
is imported by a call, as ``import("./gallery/gallery.js")``, is a bundle of its own, which the
browser loads when it is needed. The modules are also served one by one.

Each file without which a page cannot be drawn costs a round trip too. Inside the page they cost
none. The Content-Security-Policy allows them by their hashes, and no others.

Bundles refer to each other's modules by their numbers, which another version counts otherwise. So
a bundle is served at an address of its version only.
"""

from __future__ import annotations

import base64
import hashlib
import posixpath
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

VERSIONS = "v/"  # folder of the versions, see in_version

_IMPORT = re.compile(
    r'^import\s+(?:\{(?P<names>[^}]*)\}|\*\s+as\s+(?P<all>\w+))\s+from\s+"(?P<path>\.[^"]*)";$',
    re.MULTILINE,
)
_EXPORT = re.compile(
    r"^export\s+(?P<kept>(?:async\s+)?(?:function\*?|class|const)\s+(?P<name>\w+))", re.MULTILINE
)
_EXPORT_LIST = re.compile(r"\bexport\s*\{(?P<names>[^}]*)\};?\s*\Z")  # at the end of a library
_LATE = re.compile(r'\bimport\("(?P<path>\.[^"]*)"\)')
_DOCUMENTATION = re.compile(r"^ */\*\*.*?\*/\n", re.MULTILINE | re.DOTALL)
_COMMENT = re.compile(r"^ *//.*\n", re.MULTILINE)
_COMMENT_AT_END = re.compile(r" +// [^\"'`\n]*$", re.MULTILINE)  # no end of a text follows
_INDENTATION = re.compile(r"^ +", re.MULTILINE)
_EMPTY_LINES = re.compile(r"\n{2,}")
_STYLE_COMMENT = re.compile(r"/\*.*?\*/\n?", re.DOTALL)
_SHEET = re.compile(r'<link rel="stylesheet" href="(?:\.\./)*page/(?P<path>[^"]+)" />')
_SCRIPT = re.compile(r'<script src="(?:\.\./)*page/(?P<path>[^"]+)"></script>')
_BUNDLE = re.compile(r'(?<=")(?P<folder>(?:\.\./)*page/)(?P<path>[^"]*\bbundle\.js)(?=")')
_LEFT = re.compile(r'^(?:import\b.*["\']\.|export\b).*$', re.MULTILINE)


def bundles_of(files: Mapping[str, str], main: str, name: str) -> Mapping[str, str]:
    """Bundles by path: ``name`` with the module ``main`` and all that it imports, and one for each
    module that is imported by a call. ``files``: path → source.

    Each module becomes a function that returns its exports, so that names do not meet. A module is
    run once: other bundles import it from the first one. Raises ``ValueError`` for a cycle, and for
    a form of import or export that the page does not use.
    """
    numbers: dict[str, int] = {}
    text, late = _bundle(files, main, numbers, name)
    bundles = {name: f"{text}\nexport {{ {_names(numbers.values())} }};\n"}
    for path in sorted(late):
        known = dict(numbers)
        text, later = _bundle(files, path, known, place := late_bundle(path))
        if later:
            raise ValueError(f"{path}: only modules of the first bundle may import by a call")
        shared = [
            numbers[module] for module in sorted(_dependencies(files, path)) if module in numbers
        ]
        first = posixpath.relpath(name, posixpath.dirname(place))
        names = _exports(files[path])
        bundles[place] = (
            f'import {{ {_names(shared)} }} from "{_relative(first)}";\n{text}\n'
            f"export const {{ {', '.join(names)} }} = module{known[path]};\n"
        )
    return bundles


def late_bundle(path: str) -> str:
    """Path of the bundle of a module that is imported by a call."""
    return f"{path.removesuffix('.js')}.bundle.js"


def _bundle(
    files: Mapping[str, str], main: str, numbers: dict[str, int], place: str
) -> tuple[str, set[str]]:
    """Text of the modules that have no number yet, and the paths that they import by a call."""
    parts: list[str] = []
    late: set[str] = set()
    for path in _in_order(files, main, ()):
        if path not in numbers:
            numbers[path] = len(numbers)
            late.update(_target(path, match["path"]) for match in _LATE.finditer(files[path]))
            parts.append(_function(path, files[path], numbers, place))
    return "\n".join(parts), late


def _in_order(files: Mapping[str, str], path: str, above: tuple[str, ...]) -> Iterator[str]:
    """Modules that ``path`` imports, each after those that it imports itself, and then ``path``."""
    if path in above:
        raise ValueError(f"{path} imports itself by way of {above[-1]}")
    for match in _IMPORT.finditer(files[path]):
        yield from _in_order(files, _target(path, match["path"]), (*above, path))
    yield path


def _dependencies(files: Mapping[str, str], path: str) -> set[str]:
    return set(_in_order(files, path, ()))


def _function(path: str, source: str, numbers: Mapping[str, int], place: str) -> str:
    def binding(match: re.Match[str]) -> str:
        names = match["all"] or f"{{{(match['names'] or '').replace(' as ', ': ')}}}"
        return f"const {names} = module{numbers[_target(path, match['path'])]};"

    def late_call(match: re.Match[str]) -> str:
        target = late_bundle(_target(path, match["path"]))
        return f'import("{_relative(posixpath.relpath(target, posixpath.dirname(place)))}")'

    written = _EXPORT_LIST.sub("", _DOCUMENTATION.sub("", source))
    body = _EXPORT.sub(lambda match: match["kept"], _IMPORT.sub(binding, written))
    if left := _LEFT.search(body):
        raise ValueError(f"{path}: this form is not bundled: {left[0]}")
    body = _strip_module(_LATE.sub(late_call, body))
    listed = [f"{name}: {own}" for own, name in _trailing_exports(source)]
    returned = f"return {{ {', '.join([*_exports(source), *listed])} }};"
    return f"// {path}\nconst module{numbers[path]} = (() => {{\n{body}\n{returned}\n}})();\n"


def stripped_styles(sheet: str) -> str:
    """Style sheet without its comments and indentation."""
    return _INDENTATION.sub("", _STYLE_COMMENT.sub("", sheet))


def _strip_module(source: str) -> str:
    """Module without its comments, indentation and empty lines, a tenth of the bytes that are sent.

    A module that may have a template of several lines keeps its lines, because they may be text. It
    is one with a line in which the number of backticks is odd.
    """
    if any(line.count("`") % 2 for line in source.split("\n")):
        return source
    bare = _INDENTATION.sub("", _COMMENT_AT_END.sub("", _COMMENT.sub("", source)))
    return _EMPTY_LINES.sub("\n", bare)


def _exports(source: str) -> list[str]:
    return [match["name"] for match in _EXPORT.finditer(source)]


def _trailing_exports(source: str) -> Iterator[tuple[str, str]]:
    """Names of the exports at the end of a library, each inside of it and outside."""
    if (match := _EXPORT_LIST.search(source)) is not None:
        for specifier in match["names"].split(","):
            own, _, name = specifier.strip().partition(" as ")
            yield own, name or own


def _names(numbers: Iterable[int]) -> str:
    return ", ".join(f"module{number}" for number in numbers)


def _target(path: str, relative: str) -> str:
    return posixpath.normpath(posixpath.join(posixpath.dirname(path), relative))


def _relative(path: str) -> str:
    return path if path.startswith(".") else f"./{path}"


def version_of(files: Mapping[str, bytes]) -> str:
    """Short name of this content of ``files``, path → content: other content has another name."""
    digest = hashlib.sha256()
    for path in sorted(files):
        digest.update(f"{path}\n{len(files[path])}\n".encode() + files[path])
    return digest.hexdigest()[:16]


def in_version(path: str, version: str) -> str:
    """Path of a file that only pages of ``version`` may load.

    The version is a folder, so that what a bundle imports, which it names from its own place, is of
    the same version.
    """
    return f"{VERSIONS}{version}/{path}"


def of_version(html: str, version: str) -> str:
    """Page whose bundles are those of ``version``."""
    return _BUNDLE.sub(lambda match: match["folder"] + in_version(match["path"], version), html)


@dataclass(frozen=True, slots=True)
class Inlined:
    """Page with its styles and its scripts that are no modules. ``sources``: what the policy has to
    allow for them, by directive."""

    html: str
    sources: Mapping[str, str]


def inline_files(html: str, files: Mapping[str, str]) -> Inlined:
    """Replace the links to ``files``, path → content. Raises ``ValueError`` for a file that would
    end its element."""
    hashes: dict[str, list[str]] = {"script-src": [], "style-src": []}

    def element(match: re.Match[str], tag: str, directive: str) -> str:
        content = files[match["path"]]
        if f"</{tag}" in content.lower():
            raise ValueError(f"{match['path']}: it contains </{tag}, so it cannot be in the page")
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        hashes[directive].append(f"'sha256-{digest}'")
        return f"<{tag}>{content}</{tag}>"

    html = _SHEET.sub(lambda match: element(match, "style", "style-src"), html)
    html = _SCRIPT.sub(lambda match: element(match, "script", "script-src"), html)
    return Inlined(html, {name: " ".join(digests) for name, digests in hashes.items() if digests})
