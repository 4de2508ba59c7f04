"""One thread a process: several processes test at once, and sums that threads share out may differ in the
last bit from call to call, where tests ask for the same bits. Set before torch is imported, and inherited."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
