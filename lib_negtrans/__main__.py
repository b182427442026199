"""`python -m lib_negtrans`."""

import sys

from .cli import main

sys.exit(main())
