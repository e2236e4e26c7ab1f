"""What runs on the nodes: the process that ``accelerate launch`` starts once a rank."""

import logging

# peft imports bitsandbytes where it is installed. On some CPUs that looks for kernels in a package that
# nothing here needs, and warns that it is absent.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
