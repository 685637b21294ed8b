"""``python -m lieaudit`` runs the ``lieaudit`` command, whichever distribution has installed it."""

import sys
from importlib.metadata import entry_points

for command in entry_points(group="console_scripts", name="lieaudit"):
    command.load()()
sys.exit("the lieaudit command is not installed: pip install lieaudit-client")
