"""From lengths to rows: where long conversations are cut, and what shares a row."""
