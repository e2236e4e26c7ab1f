"""From conversations to packed rows on disk.

``reading`` → ``encode`` → ``rendering`` make parts of blocks; ``content`` and ``packing`` decide what is in
which row; ``building`` runs it all on all cores. ``store`` and ``order`` are what training reads, and
``evidence`` is what a person does.
"""
