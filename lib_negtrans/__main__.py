"""`python -m lib_negtrans`."""

import os
import sys

# before torch is imported: on several threads MKL else adds up in another order each time, and no run can be repeated
os.environ.setdefault("MKL_CBWR", "AUTO")

from lib_negtrans.apps.cli.main import main

sys.exit(main())
