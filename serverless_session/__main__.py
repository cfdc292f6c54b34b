"""`python -m serverless_session`: the command line."""

import sys

from serverless_session.cli import main

sys.exit(main())
