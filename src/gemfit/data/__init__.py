"""From conversations to packed rows on disk: parse, render, tokenize, filter, pack, build, inspect.

May import schemas, `config` and `core`; never training. Folders import from below: `jsonl`, `tokenize`,
`render`, `dedup`, `filter`, `packing`, `pack`, `build`, `inspect`.
"""
