"""One thread everywhere, in the processes that tests start too.

The last bits of a sum depend on how many there are, and two threads on a busy core wait for each other.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"
