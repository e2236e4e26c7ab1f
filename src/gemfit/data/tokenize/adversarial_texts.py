"""Adversarial texts: each exercises a rule in which implementations of BPE are known to differ."""

from __future__ import annotations

from gemfit.data.tokenize.tokenizer_json import TokenizerJson

ADDED_TOKENS = 64
"""At most this many ordinary added tokens are used: Gemma has 6,405, nearly all of one kind."""

TEXTS = (
    "",
    " ",
    "  leading and trailing  ",
    "\n",
    "\n\n\n \n\t\t \r\n\r\n",
    " " * 70 + "x" + "\n" * 70 + "\t" * 70,
    "▁ ▁▁ a▁b ▁",
    "a >▁</ b > </ c>\u2581</d",
    "</a> </b> >  </c> <table> <td><h1></h1>",
    "don't DON'T we'll I'm 3.14159 1,000,000 10^-9 0x7F <0x0A> <0xE2><0x96><0x81>",
    "naïve café ﬁ Ⅷ ① ½ \u0301e\u0301 e\u0301 é Å \u212b",
    "日本語の文章。中文字符，한국어 문장 ภาษาไทย हिन्दी العربية עברית",
    "👩‍👩‍👧‍👦 🏳️‍🌈 🇩🇪🇫🇷 👍🏽 \U0001f9ff\U000e0067",
    "\x00\x01\x1b[0m\x7f\x80\x85\xa0\xad\u200b\u200d\u2028\u2029\u3000\ufeff\ufffd\uffff",
    "\U00010348\U0001d4d0\U00100000\U0010fffd",
    "a" * 300 + "ab" * 200 + "あ" * 100,
    "https://example.com/a?b=c&d=%20e#f user@example.com C:\\dir\\file.txt",
    "def f(x):\n    return {\"a\": [1, 2], 'b': None}  # comment\n\n\tif x != -1 and y >= 2: pass\n",
)


def adversarial_texts(tokenizer: TokenizerJson) -> list[str]:
    """``TEXTS``, and the added tokens of this tokenizer: alone, inside words, and joined."""
    special = [token["content"] for token in tokenizer.added_tokens if token["special"]]
    ordinary = [token["content"] for token in tokenizer.added_tokens if not token["special"]]
    tokens = special + ordinary[:ADDED_TOKENS]
    halves = [token[: len(token) // 2] for token in tokens]
    around = [f"before{token}after {token} {token}\n{token}" for token in tokens]
    return [*TEXTS, *tokens, *halves, *around, "".join(tokens), " ".join(reversed(tokens))]
