"""The tokenizer's rule written down plainly, a whole text at a time, as the independent reference
of the tests.
"""

import unicodedata

SPACE = "\t\n\r "
CJK = (
    (0x4E00, 0x9FFF),
    (0x3400, 0x4DBF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F),
    (0x2B820, 0x2CEAF),
    (0xF900, 0xFAFF),
    (0x2F800, 0x2FA1F),
)


def clean(text: str) -> str:
    out = []
    for char in text:
        category = unicodedata.category(char)
        if char in SPACE or category == "Zs":
            out.append(" ")
        elif ord(char) in (0, 0xFFFD) or category in ("Cc", "Cf"):
            continue
        elif any(low <= ord(char) <= high for low, high in CJK):
            out.append(f" {char} ")
        else:
            out.append(char)
    return "".join(out)


def punctuation(char: str) -> bool:
    code = ord(char)
    return (
        33 <= code <= 47
        or 58 <= code <= 64
        or 91 <= code <= 96
        or 123 <= code <= 126
        or unicodedata.category(char)[0] == "P"
    )


def words(text: str, lower_case: bool) -> list[str]:
    out = []
    for token in clean(text).split():
        if lower_case:
            token = "".join(
                c
                for c in unicodedata.normalize("NFD", token.lower())
                if unicodedata.category(c) != "Mn"
            )
        spaced = "".join(f" {char} " if punctuation(char) else char for char in token)
        out += spaced.split()
    return out


def pieces(word: str, vocab: set[str] | dict[str, int]) -> list[str]:
    if len(word) > 200:
        return ["[UNK]"]
    out, start = [], 0
    while start < len(word):
        end = len(word)
        while end > start and ("##" if start else "") + word[start:end] not in vocab:
            end -= 1
        if end == start:
            return ["[UNK]"]
        out.append(("##" if start else "") + word[start:end])
        start = end
    return out


def tokenize(text: str, vocab: set[str] | dict[str, int], lower_case: bool) -> list[str]:
    return [piece for word in words(text, lower_case) for piece in pieces(word, vocab)]
