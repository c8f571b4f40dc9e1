"""`python -m backstay.load`: the process that `backstay load` starts to make the load."""

# Locust first: it makes sockets cooperative, and what is imported before it keeps the ordinary ones.
import locust  # noqa: F401  isort: skip

import sys

from backstay.load.run import main

if __name__ == "__main__":
    sys.exit(main())
