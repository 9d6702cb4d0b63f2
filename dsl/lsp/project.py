"""Open buffers and analyses: what the server remembers between two messages.

Analyses are made when first asked for and kept until one of the texts they read changes. Texts are
held as they are, so that no line splitting but our own is ever applied to them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from grape.dsl.lsp.analyser import Analyser, Analysis

MOST_FILES = 500
"""Files of a project that references and renaming look through."""
_SKIPPED = frozenset({"node_modules", "__pycache__", "build", "dist"})


@dataclass
class Project:
    """`texts` are the open buffers by file, `uris` the address under which a client opened each;
    `folders` the folders that the client has open."""

    analyser: Analyser
    texts: dict[Path, str] = field(default_factory=dict)
    uris: dict[Path, str] = field(default_factory=dict)
    folders: list[Path] = field(default_factory=list)
    _known: dict[Path, Analysis] = field(default_factory=dict)

    def put(self, path: Path, text: str) -> None:
        """A buffer was opened or changed."""
        if self.texts.get(path) != text:
            self.texts[path] = text
            self.forget(path)

    def close(self, path: Path) -> None:
        self.texts.pop(path, None)
        self.uris.pop(path, None)
        self.forget(path)

    def forget(self, path: Path) -> None:
        """Drop every analysis that read this file, and those that miss a file: it may be there
        now."""
        for known, analysis in list(self._known.items()):
            missing = any(finding.code == "G104" for finding in analysis.findings)
            if known == path or path in analysis.paths.values() or missing:
                del self._known[known]

    def forget_all(self) -> None:
        self._known.clear()

    def is_known(self, path: Path) -> bool:
        """Whether nothing that an analysis of this file reads has changed since it was made."""
        return path in self._known

    def text(self, path: Path) -> str:
        """The text of a file: the open buffer, else the disk. Raises OSError."""
        if path in self.texts:
            return self.texts[path]
        return path.read_bytes().decode("utf-8-sig", errors="replace")

    def analysis(self, path: Path) -> Analysis:
        """What is known about a file. Raises OSError when it cannot be read."""
        if path not in self._known:
            self._known[path] = self.analyser.analyse(path, self.texts)
        return self._known[path]

    def files(self, path: Path) -> Iterator[Path]:
        """The files that may name what a file declares: those of the open folder around it, or
        of its own folder, and every open one."""
        around = [folder for folder in self.folders if path.is_relative_to(folder)]
        root = min(around, key=lambda folder: len(folder.parts)) if around else path.parent
        seen = dict.fromkeys([path, *self.texts])
        for found in sorted(root.rglob("*.grape"))[:MOST_FILES]:
            inner = found.relative_to(root).parts
            if not any(part in _SKIPPED or part.startswith(".") for part in inner):
                seen[found.resolve()] = None
        yield from seen

    def mentioning(self, name: str, path: Path) -> Iterator[tuple[Path, Analysis]]:
        """Analyses of the files whose text holds a name."""
        for file in self.files(path):
            try:
                if name in self.text(file):
                    yield file, self.analysis(file)
            except OSError:
                continue

    def snapshot(self, changed: Mapping[Path, str], path: Path) -> Analysis:
        """The analysis of a file as it would be with other texts; nothing is kept."""
        return self.analyser.analyse(path, {**self.texts, **changed})
