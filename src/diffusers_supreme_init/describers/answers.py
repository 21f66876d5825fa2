"""What a captioner answers beside a description: introductions, numbering, repetitions, and refusals."""

import re

_INTRODUCTIONS = (
    re.compile(
        r"\A\W*(?:(?:sure|certainly|of course|okay|ok)\b[^\n:.!]*[:.!,]?\s*)?"
        r"(?:(?:here(?:'s| is| are)|this is|the following is)\b[^\n:]{0,60}:\s*)",
        re.IGNORECASE,
    ),
    re.compile(r"\A\W*(?:sure|certainly|of course)\s*[!.,:]\s*", re.IGNORECASE),
    re.compile(
        r"\A\W*(?:(?:the|a|my|short|brief|possible|image|picture|photo|best) )*"
        r"(?:caption|description|answer|assistant|output|response|title|label|alt[- ]text|prompt)s?"
        r"(?: \d+| of the (?:image|picture|photo)| is)*\W*[:=]\W*",
        re.IGNORECASE,
    ),
    re.compile(r"\A\W*(?:\(?\d{1,2}[.):]|[-*•–]|[a-z]\)|step \d+:)\s+", re.IGNORECASE),
)
_REFUSAL = re.compile(
    r"\A\W*(?:(?:i'?m|i am|we'?re) (?:very |so |really )?(?:sorry|afraid|unable|not able|not sure|just an? )"
    r"|sorry\b|apologies|i (?:do )?apologi[sz]e|unfortunately\b"
    r"|(?:i|we) (?:can(?:'?t|not| not)|could(?:n'?t| not)|do(?:n'?t| not) (?:see|have|know))"
    r"|as an? (?:ai|artificial|language|large)\b"
    r"|(?:there is |there's )?no (?:image|picture|photo|caption|description|text|answer)\b"
    r"|please (?:provide|upload|share|send|attach)|(?:error|n/?a|none|null|unknown|undefined|untitled)\W*\Z"
    r"|(?:caption|description|answer)\W*\Z)",
    re.IGNORECASE,
)
_WORD = r"[^\W_](?:[\w'-]*\w)?"
_AGAIN = re.compile(rf"\b({_WORD}(?:[\s,]+{_WORD}){{0,8}}?)(?:[\s,]+\1\b)+", re.IGNORECASE)
_JOINED_AGAIN = re.compile(
    rf"\b({_WORD}(?:\s+{_WORD}){{1,8}}?),?\s+(?:with|and|or|of|in|on|by|near|next to|holding)\s+\1\b", re.IGNORECASE
)
_NAMES = frozenset(
    {
        *("aye", "bora", "bye", "cha", "chop", "choo", "chow", "couscous", "dik", "dum", "ha", "hush", "knock", "mau"),
        *("night", "nom", "pom", "pon", "pop", "so", "tom", "tuk", "yo", "york"),
    }
)
"""Words that are said twice: bora bora, tuk tuk, new york new york."""


def plain_answer(text: str) -> tuple[str, list[str]]:
    """Return an answer without introductions, numbering and repetitions, and what was removed.

    >>> plain_answer("Caption: a bald bald bald man with a bald man")
    ('a bald man', ['Caption:', 'bald bald', 'with a bald man'])
    """
    removed: list[str] = []
    text = text.replace("’", "'")
    while match := next((found for one in _INTRODUCTIONS if (found := one.match(text)) and found.end()), None):
        if not text[match.end() :].strip():
            break
        removed.append(match[0].strip())
        text = text[match.end() :]
    for pattern in (_AGAIN, _JOINED_AGAIN, _AGAIN):
        position = 0
        while (again := pattern.search(text, position)) is not None:
            if _is_name(again):
                position = again.end()
                continue
            removed.append(again[0][len(again[1]) :].strip(" ,"))
            text = text[: again.start()] + again[1] + text[again.end() :]
    return text, removed


def is_refusal(text: str) -> bool:
    """Whether an answer declines to describe the picture, or says that there is nothing to describe.

    >>> is_refusal("I'm sorry, I can't help with that."), is_refusal("a sorry looking mug")
    (True, False)
    """
    return _REFUSAL.match(text.replace("’", "'")) is not None


def _is_name(again: re.Match[str]) -> bool:
    is_pair = len(re.findall(_WORD, again[0])) == 2 * len(re.findall(_WORD, again[1]))
    return is_pair and re.findall(_WORD, again[1].lower())[-1] in _NAMES
