"""On which line does a key of a TOML text stand? tomllib does not say.

The text must be valid (tomllib has read it before): the scan follows keys, tables and inline tables, skips values,
and never judges.
"""

import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field

KeyPath = tuple[str, ...]

TOKEN = re.compile(
    r'(?P<space>[ \t\r]+|#[^\n]*)|(?P<string>"""(?:\\.|[^\\])*?"{3,5}|\'\'\'.*?\'{3,5}|"(?:\\.|[^"\\])*"|\'[^\']*\')'
    r"|(?P<word>[A-Za-z0-9_-]+)|(?P<mark>[\n\[\]{}=,.])|(?P<other>.)",
    re.DOTALL,
)
OPEN, CLOSE = "[{", "]}"


def key_lines(text: str) -> dict[KeyPath, int]:
    """Path of every table and key -> its first line, counted from 1."""
    return Scan(list(tokens(text))).run()


def tokens(text: str) -> Iterator[tuple[str, int]]:
    """The text's pieces with their lines; blanks and comments left out."""
    line = 1
    for found in TOKEN.finditer(text):
        if found.lastgroup != "space":
            yield found[0], line
        line += found[0].count("\n")


def remarks(text: str) -> dict[int, str]:
    """Line -> what its comment says."""
    line, said = 1, {}
    for found in TOKEN.finditer(text):
        if found[0].startswith("#"):
            said[line] = found[0][1:].strip()
        line += found[0].count("\n")
    return said


def name_of(token: str) -> str:
    """The key that a token spells."""
    return str(tomllib.loads(f"key = {token}")["key"]) if token[0] in "\"'" else token


@dataclass
class Scan:
    """One walk over the tokens of a text."""

    pieces: list[tuple[str, int]]
    at: int = 0
    lines: dict[KeyPath, int] = field(default_factory=dict)

    def run(self) -> dict[KeyPath, int]:
        """Walk to the end: table headers, and keys below the table they stand in."""
        table: KeyPath = ()
        while self.at < len(self.pieces):
            if self.piece == "\n":
                self.at += 1
            elif self.piece == "[":
                table = self.header()
            else:
                self.pair(table)
        return self.lines

    @property
    def piece(self) -> str:
        """The token under the cursor; a newline behind the last one."""
        return self.pieces[self.at][0] if self.at < len(self.pieces) else "\n"

    def header(self) -> KeyPath:
        """[a.b] or [[a.b]]."""
        while self.piece == "[":
            self.at += 1
        table = self.key(())
        while self.piece == "]":
            self.at += 1
        return table

    def key(self, table: KeyPath) -> KeyPath:
        """a.b."c d", noted with its line; the cursor ends behind it."""
        line = self.pieces[self.at][1]
        path = [*table, name_of(self.piece)]
        self.at += 1
        while self.piece == ".":
            path.append(name_of(self.pieces[self.at + 1][0]))
            self.at += 2
        for length in range(len(table) + 1, len(path) + 1):
            self.lines.setdefault(tuple(path[:length]), line)
        return tuple(path)

    def pair(self, table: KeyPath) -> None:
        """key = value."""
        path = self.key(table)
        self.at += 1  # the equals sign
        if self.piece == "{":
            self.inline(path)
        else:
            self.skip()

    def inline(self, path: KeyPath) -> None:
        """{a = 1, b = 2}: its keys are noted too."""
        self.at += 1
        while self.piece != "}":
            if self.piece in (",", "\n"):
                self.at += 1
            else:
                self.pair(path)
        self.at += 1

    def skip(self) -> None:
        """Over a value: to the end of the line, or the comma or brace of the inline table around it."""
        depth = 0
        while self.at < len(self.pieces) and (depth or self.piece not in ("\n", ",", "}")):
            depth += (self.piece in OPEN) - (self.piece in CLOSE)
            self.at += 1
