"""`python -m llmcore` is the command `llmcore`."""

import sys

from llmcore.cli import main

sys.exit(main())
