"""``python -m gemfit.train.accelerate_launch``: ``accelerate launch``, which starts and ends sooner.

It takes the same options. Collections of garbage are a quarter of the time in which it imports torch and most
of the time in which it ends, and boto3, with which accelerate trains on SageMaker, is not imported.
"""

from __future__ import annotations

from gemfit.core.garbage import importing
from gemfit.core.hidden_packages import hidden


def main() -> None:
    """Import accelerate's launcher and torchrun, and launch."""
    with hidden(("boto3",)), importing():
        import torch.distributed.run  # noqa: F401, PLC0415  (imported by accelerate when it starts ranks)
        from accelerate.commands import launch  # noqa: PLC0415
    launch.main()


if __name__ == "__main__":
    main()
