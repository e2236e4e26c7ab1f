"""One training rank: the process that ``accelerate launch`` starts, from run folder to verdict.

Imports `gemfit.data`, `gemfit.checkpoint`, `gemfit.upload` and what is below them; never `gemfit_launch`.
Layers, top to bottom; a module imports only from layers below its own::

    __main__
    main                            wires callbacks, self-test and uploader into the trainer
    loop | checks | telemetry       independent of each other; they meet in `trainer_view`
    model
    checkpoint
    data | distributed
    heartbeat
    accelerate_launch | attempt_verdict | thread_device | trainer_view | unused_packages
    sequence_group
    collective
"""

import logging

# peft imports bitsandbytes where it is installed. On some CPUs that looks for kernels in a package that
# nothing here needs, and warns that it is absent.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
